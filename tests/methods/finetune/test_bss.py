import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, parts

from jtl.methods.finetune.bss import bss, smallest
from jtl.methods.finetune.finetune import finetune
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)], ids=["tall", "wide"])
@pytest.mark.parametrize("k", [1, 3, 99])
def test_the_smallest_values_of_the_rows_kept_are_numpys(shape, k):
    f = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mask = np.arange(shape[0]) % 4 != 1
    expected = (np.sort(np.linalg.svd(f[mask], compute_uv=False))[:k] ** 2).sum()
    f[~mask] = np.nan
    np.testing.assert_allclose(smallest(jnp.asarray(f), jnp.asarray(mask), k), expected, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda f: smallest(f, jnp.asarray(mask), k))(jnp.asarray(f))).all()


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)], ids=["tall", "wide"])
def test_the_gradient_is_that_of_finite_differences(shape):
    with jax.enable_x64(True):
        f = jnp.asarray(np.random.default_rng(1).normal(size=shape))
        found = jax.jit(jax.grad(lambda f: smallest(f, k=2)))(f)

    def value(f):
        return (np.sort(np.linalg.svd(f, compute_uv=False))[:2] ** 2).sum()

    for i in np.ndindex(shape):
        e = np.zeros(shape)
        e[i] = 1e-5
        slope = (value(np.asarray(f) + e) - value(np.asarray(f) - e)) / 2e-5
        np.testing.assert_allclose(found[i], slope, atol=1e-7)


@pytest.mark.parametrize("f", [np.eye(4), np.zeros((4, 3)), np.ones((4, 3))], ids=["equal", "zero", "rank one"])
def test_the_gradient_is_finite_at_equal_values(f):
    found = jax.grad(lambda f: smallest(f, k=2))(jnp.asarray(f, jnp.float32))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(jnp.linalg.norm(found), 8**0.5 if f.trace() == 4 else 0.0, atol=1e-4)


def test_a_batch_without_rows_gives_zero():
    assert float(smallest(jnp.full((4, 3), jnp.nan), jnp.zeros(4, bool))) == 0


def test_the_term_reads_the_pooled_features_of_the_rows_kept(key):
    rows = batch(masked=True)
    net, _, variables = parts(key, rows["x"])
    loss, _ = finetune(net, terms=[bss(0.5, k=2)])(variables.params, variables.stats, rows, key, 0)
    features = np.asarray(net.apply(variables, rows["x"], train=False)[0].features["pooled"])
    values = np.linalg.svd(features[rows["mask"]], compute_uv=False)
    np.testing.assert_allclose(loss["bss"].value, 0.5 * (np.sort(values)[:2] ** 2).sum(), rtol=1e-4, atol=1e-6)
    plain = finetune(net)(variables.params, variables.stats, rows, key, 0)[0]
    np.testing.assert_allclose(loss["supervised"].value, plain.value, rtol=1e-6)


def test_eight_devices_are_one(key):
    rows = batch(n=16, masked=True)
    net, _, start = parts(key, rows["x"])
    objective = finetune(net, terms=[bss(5.0, k=2)])
    step = make_step(objective, optax.sgd(0.1))
    state = step.init(start, key)
    one, found = jax.jit(step)(state, rows)
    many, of_each = pmap_step(step)(replicated(state), split_batch(rows))
    np.testing.assert_allclose(np.asarray(of_each["bss"]).reshape(-1)[0], found["bss"], rtol=1e-4)
    assert found["bss"] > 1e-3
    assert largest_difference(jax.device_get(unreplicated(many)).params, one.params) < 1e-5


def test_bad_input_raises(key):
    with pytest.raises(ValueError, match="k=0: give at least 1"):
        bss(k=0)
    rows = batch()
    net, _, variables = parts(key, rows["x"])
    with pytest.raises(ValueError, match="feature='map' of 'source'"):
        finetune(net, terms=[bss(feature="map")])(variables.params, variables.stats, rows, key, 0)

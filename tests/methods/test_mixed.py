import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, parts

from jtl import backbones, heads, rng
from jtl.data import augment
from jtl.data.mixing import cutmix, mixup
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.methods.mixed import mixed
from jtl.model import preprocessed
from jtl.networks import network


def test_it_is_the_objective_on_what_the_mix_gives(key):
    rows = batch(masked=True)
    net, _, variables = parts(key, rows["x"])
    logits = net.apply(variables, rows["x"], train=False)[0].output
    mix = mixup(0.4, logits.shape[1])
    plain = finetune(net, metrics={}, frozen_stats=True)
    loss, _ = jax.jit(lambda *a: mixed(plain, mix)(*a))(variables.params, variables.stats, rows, key, 0)
    x, y = mix(rng.stream(key, "mix"), rows["x"], rows["y"], rows["mask"])
    p = jax.nn.log_softmax(net.apply(variables, x, train=False)[0].output)
    expected = -(np.asarray(y) * np.asarray(p)).sum(1)[np.asarray(rows["mask"])].mean()
    np.testing.assert_allclose(loss.value, expected, rtol=1e-5)


@pytest.mark.parametrize("mix", [mixup(0.4, 3), cutmix(1.0, 3)], ids=["mixup", "cutmix"])
def test_mixing_before_and_behind_the_normalisation_in_a_network_is_the_same(key, mix):
    """To 1e-6 of values up to 2: mixup rounds one sum before or behind one scaling."""
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (16, 8, 8, 3)).astype(np.uint8), draw.integers(0, 3, 16)
    normalise = augment.normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    seen, labels = mix(key, x, y)
    behind, same = mix(key, normalise(None, x), y)
    np.testing.assert_allclose(normalise(None, seen), behind, atol=1e-6)
    np.testing.assert_array_equal(labels, same)
    assert seen.dtype == (jnp.float32 if "mixup" in mix.__qualname__ else jnp.uint8)


@pytest.mark.parametrize("mix", [mixup(0.4, 3), cutmix(1.0, 3)], ids=["mixup", "cutmix"])
def test_integer_images_and_the_default_metrics(key, mix):
    """A network that normalises inside, as the README makes it, trains on mixed uint8 images."""
    draw = np.random.default_rng(0)
    rows = {"x": draw.integers(0, 256, (16, 8, 8, 3)).astype(np.uint8), "y": draw.integers(0, 3, 16)}
    rows["mask"] = np.arange(16) < 13
    net = preprocessed(
        network(backbone=backbones.mlp((8,)), head=heads.linear(3)), augment.normalise([0.5] * 3, [0.5] * 3)
    )
    objective = mixed(finetune(net), mix)
    variables = objective.init(key, rows)
    loss, aux = jax.jit(objective.loss)(variables.params, variables.stats, rows, key, 0)
    x, y = mix(rng.stream(key, "mix"), rows["x"], rows["y"], rows["mask"])
    right = predictor(net)(variables, x).argmax(1) == y.argmax(1)
    assert np.isfinite(loss.value)
    np.testing.assert_allclose(aux.metrics["accuracy"].value, right[:13].mean(), rtol=1e-6)


def test_integers_that_are_no_images_are_not_mixed(key):
    with pytest.raises(ValueError, match=r"mixup of int32 \(4, 5\): give floats, or integer images"):
        mixup(0.2, 3)(key, np.zeros((4, 5), np.int32), np.zeros(4, int))


@pytest.mark.parametrize("mix", [mixup(1.0, 5), cutmix(1.0, 5)], ids=["mixup", "cutmix"])
def test_rows_left_out_reach_no_other(key, mix):
    n = 40
    mask = np.arange(n) % 3 != 0
    x = np.where(mask[:, None, None, None], np.arange(n)[:, None, None, None], np.nan) * np.ones((1, 4, 4, 1))
    y = np.where(mask, np.arange(n) % 4, 4)
    seen, labels = jax.jit(mix)(key, x.astype(np.float32), y, mask)
    assert np.isfinite(seen[mask]).all()
    np.testing.assert_array_equal(labels[mask][:, 4], 0)
    assert (np.asarray(seen)[mask] != x[mask]).any((1, 2, 3)).mean() > 0.5
    every = np.asarray(mix(key, x.astype(np.float32), y, np.ones(n))[1])
    np.testing.assert_array_equal(every, mix(key, x.astype(np.float32), y)[1])


def test_bad_batches_raise(key):
    objective = mixed(lambda *a: None, mixup(1.0, 3))
    x, y = jnp.ones((2, 4)), jnp.zeros(2, int)
    for rows in ({"x": x}, {"y": y}, {"x": x, "y": y, "weights": jnp.ones(2)}):
        with pytest.raises(ValueError, match="the batch to mix holds"):
            objective({}, {}, rows, key, 0)

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jtl import model, ops
from jtl.params import flatten


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(nn.Dense(4, name="dense")(x))
        return {"pooled": nn.Dropout(0.5, deterministic=not train)(x), "stage1": x}


def test_linen_module_is_two_pure_functions(key):
    net = model.from_linen(Net())
    x = jax.random.normal(key, (6, 3))
    made = net.init(key, x)
    assert sorted(flatten(made.params)) == ["dense/bias", "dense/kernel", "norm/bias", "norm/scale"]
    assert sorted(flatten(made.stats)) == ["norm/mean", "norm/var"]
    out, same = net.apply(made, x, train=False, key=None)
    assert same is made.stats
    by_hand = (x @ made.params["dense"]["kernel"]) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(out["pooled"], by_hand, rtol=1e-5, atol=1e-6)
    _, new = net.apply(made, x, train=True, key=key)
    dense = x @ made.params["dense"]["kernel"]
    np.testing.assert_allclose(new["norm"]["mean"], 0.1 * dense.mean(0), rtol=1e-5, atol=1e-6)


def test_a_model_computes_in_the_dtype_of_its_parameters(key):
    net = model.from_linen(Net())
    made = net.init(key, jnp.ones((2, 3)))
    low = made._replace(params=model.cast_floating(made.params, jnp.bfloat16))
    assert net.apply(low, jnp.ones((2, 3)), train=False)[0]["pooled"].dtype == jnp.bfloat16


class Odd(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        self.variable("cache", "seen", lambda: jnp.zeros(()))
        return x


def test_an_unknown_collection_is_refused_by_name(key):
    with pytest.raises(ValueError, match=r"Odd makes the collections \['cache'\]"):
        model.from_linen(Odd()).init(key, jnp.ones(1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.tanh(layer(x))
        x = self.norm(x)
        return {"pooled": self.drop(x), "stage1": x}


def test_nnx_module_becomes_the_same_two_functions(key):
    net = model.from_nnx(Nnx)
    x = jax.random.normal(key, (8, 3))
    made = net.init(key, x)
    assert "layers/0/kernel" in flatten(made.params)
    assert sorted(flatten(made.stats)) == ["norm/mean", "norm/var"]
    reference = Nnx(nnx.Rngs(params=key, dropout=key))
    reference.eval()
    out, stats = jax.jit(lambda v, x: net.apply(v, x, train=False, key=None))(made, x)
    np.testing.assert_allclose(out["pooled"], reference(x)["pooled"], rtol=1e-6, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, stats, made.stats)

    def loss(params, key):
        out, new = net.apply(made._replace(params=params), x, train=True, key=key)
        return (out["pooled"] ** 2).sum(), new

    step = jax.jit(jax.grad(loss, has_aux=True))
    grads, new = step(made.params, key)
    assert jax.tree.structure(grads) == jax.tree.structure(made.params)
    assert jax.tree.structure(new) == jax.tree.structure(made.stats)
    reference.train()
    reference(x)
    np.testing.assert_allclose(new["norm"]["mean"], reference.norm.mean[...], rtol=1e-5, atol=1e-6)
    same, other = step(made.params, key)[0], step(made.params, jax.random.key(1))[0]
    jax.tree.map(np.testing.assert_array_equal, grads, same)
    assert not np.array_equal(grads["norm"]["scale"], other["norm"]["scale"])


@pytest.mark.parametrize("net", [model.from_linen(Net()), model.from_nnx(Nnx)], ids=["linen", "nnx"])
def test_flax_own_batchnorm_sees_all_devices_under_pmap(key, net):
    x = jax.random.normal(key, (16, 3))
    made = net.init(key, x)

    def apply(x):
        out, new = net.apply(made, x, train=True, key=key)
        return out["stage1"], new

    whole, expected = jax.jit(apply)(x)
    parts, stats = jax.pmap(apply, axis_name=ops.BATCH_AXIS)(x.reshape(8, 2, 3))
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=1e-5, atol=1e-6)


class Drops(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return {"first": self.first(x), "second": self.second(x)}


def test_each_dropout_of_an_nnx_network_draws_a_mask_of_its_own(key):
    net = model.from_nnx(Drops)
    x = jnp.ones((1000,))
    out = net.apply(net.init(key, x), x, train=True, key=key)[0]
    both = float(((out["first"] > 0) & (out["second"] > 0)).mean())
    assert abs(both - 0.25) < 0.06  # two independent halves; one mask would give a half
    again = net.apply(net.init(key, x), x, train=True, key=key)[0]
    jax.tree.map(np.testing.assert_array_equal, out, again)


class Stacked(nnx.Module):
    def __init__(self, rngs):
        self.drop = nnx.split_rngs(splits=2)(nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs)))(rngs)

    def __call__(self, x):
        return nnx.vmap(lambda drop, x: drop(x), in_axes=(0, None))(self.drop, x)


def test_stacked_dropouts_of_an_nnx_network_draw_masks_of_their_own(key):
    net = model.from_nnx(Stacked)
    x = jnp.ones((1000,))
    first, second = net.apply(net.init(key, x), x, train=True, key=key)[0]
    assert abs(float(((first > 0) & (second > 0)).mean()) - 0.25) < 0.06

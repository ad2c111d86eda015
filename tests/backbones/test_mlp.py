"""The perceptron against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.backbones import mlp


def test_is_its_formula(key):
    rng = np.random.default_rng(0)
    net, x = mlp((8, 6)), rng.normal(size=(3, 4, 5)).astype(np.float32)
    v = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), net.init(key, x))
    features, stats = net.apply(v, x, train=True, key=None)
    h = x.reshape(3, 20)
    for name in ("stage1", "stage2"):
        w = jax.tree.map(np.asarray, v.params)[name]["dense"]
        h = np.maximum(h @ w["kernel"] + w["bias"], 0)
        np.testing.assert_allclose(features[name], h, rtol=1e-5, atol=1e-5)
    assert stats == {}
    assert sorted(features) == ["last", "pooled", "stage1", "stage2"]
    for name in ("last", "pooled"):
        np.testing.assert_array_equal(features[name], features["stage2"])


def test_dropout_is_in_training_only(key):
    net, x = mlp((64,), dropout=0.5), np.ones((2, 3), np.float32)
    v = net.init(key, x)
    dropped = net.apply(v, x, train=True, key=key)[0]["pooled"]
    kept = net.apply(v, x, train=False, key=None)[0]["pooled"]
    np.testing.assert_allclose(dropped[dropped > 0], 2 * np.asarray(kept)[dropped > 0], rtol=1e-6)
    assert (dropped == 0).sum() > (kept == 0).sum()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mlp(()), "at least one layer"),
        (lambda: mlp((3, 0)), r"\(3, 0\)"),
        (lambda: mlp((3,), dropout=-0.1), "dropout=-0.1"),
        (lambda: mlp((3,)).init(jax.random.key(0), np.ones((2, 4), np.uint8)), "uint8"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()

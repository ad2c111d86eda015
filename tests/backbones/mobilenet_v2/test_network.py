"""MobileNetV2's published sizes; what it computes is compared in test_names.py."""

import jax
import jax.numpy as jnp
import pytest

from jtl import backbones


# Millions of parameters in timm's table of mobilenetv2_{050,100,140}, with the last layer's 1000 (c + 1).
@pytest.mark.parametrize(("width", "millions", "pooled"), [(0.5, 1.97, 1280), (1.0, 3.50, 1280), (1.4, 6.11, 1792)])
@pytest.mark.parametrize("same", [False, True])
def test_sizes_are_the_published_ones(key, width, millions, pooled, same):
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    net = backbones.mobilenet_v2(width, same_padding=same)
    made = jax.eval_shape(net.init, key, x)
    assert round((sum(a.size for a in jax.tree.leaves(made.params)) + 1000 * (pooled + 1)) / 1e6, 2) == millions
    features = jax.eval_shape(lambda v, x: net.apply(v, x, train=False, key=None)[0], made, x)
    sides = {name: f.shape[1] for name, f in features.items() if f.ndim == 4}
    assert sides == {"stage1": 112, "stage2": 56, "stage3": 28, "stage4": 14, "stage5": 7, "last": 7}
    assert features["pooled"].shape == (1, pooled)


def test_bad_width_is_named():
    with pytest.raises(ValueError, match="width=0: must be positive"):
        backbones.mobilenet_v2(0)
    with pytest.raises(ValueError, match="depth=0: must be positive"):
        backbones.mobilenet_v2(depth=0)

"""DINOv2: its published sizes, images of any size, and bad input. Its numbers are compared with transformers' where
files are loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones

SIZE = backbones.Size(8, 1, 2, 16)


# Parameters of facebookresearch/dinov2's vits14, vitb14, vitl14 and vitg14.
@pytest.mark.parametrize(
    ("size", "total"), [("S", 22_056_576), ("B", 86_580_480), ("L", 304_368_640), ("g", 1_136_480_768)]
)
def test_sizes_are_the_published_ones(key, size, total):
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    made = jax.eval_shape(backbones.dinov2(size, mask_token=True).init, key, x)
    assert sum(a.size for a in jax.tree.leaves(made.params)) == total


def test_registers_pass_blocks_of_factor_0_and_are_no_patches(key):
    """The factors of CaiT's layer scale: with 0 the blocks are the identity."""
    net = backbones.dinov2(SIZE, patch=2, image=4, registers=3, layer_scale=0.0)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    made = jax.jit(net.init)(key, x)
    registers = np.random.default_rng(1).normal(size=(1, 3, 8)).astype(np.float32)
    made = made._replace(params=made.params | {"registers": registers})
    features = jax.jit(lambda v, x: net.apply(v, x, train=False)[0])(made, x)
    np.testing.assert_array_equal(features["stage1"][:, 1:4], np.broadcast_to(registers, (2, 3, 8)))
    assert features["last"].shape == (2, 1 + 3 + 4, 8)
    wanted = np.asarray(features["last"])[:, 4:].mean(1)
    np.testing.assert_allclose(features["pooled"][:, 8:], wanted, rtol=1e-5, atol=1e-6)


def test_bad_input_is_named(key):
    with pytest.raises(ValueError, match=r"image=50.*patch=14"):
        backbones.dinov2("S", image=50)
    with pytest.raises(ValueError, match=r"images of 1x9 pixels.*2x2"):
        backbones.dinov2(SIZE, patch=2, image=4).init(key, np.ones((1, 1, 9, 3), np.float32))

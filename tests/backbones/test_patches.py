"""Convolution as patches is the convolution, and so are its first and second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jtl.backbones.patches import conv_as_patches

CASES = [
    (3, 1, 1, (5, 6)),
    (3, 2, 1, (7, 6)),
    (3, 2, 1, (1, 2)),
    (1, 2, 0, (5, 5)),
    (7, 2, 3, (9, 8)),
    (4, 4, 0, (8, 8)),
]


def reference(x, kernel, stride, padding):
    pads = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("side", "stride", "padding", "size"), CASES)
def test_equals_lax_and_so_do_its_derivatives(side, stride, padding, size):
    """In float64, so that 1e-10 leaves nothing but the order of the sums."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, *size, 3)))
        kernel = jnp.asarray(rng.normal(size=(side, side, 3, 4)))
        direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), (x, kernel))

        def derivatives(conv):
            def loss(x, kernel):
                return jnp.tanh(conv(x, kernel, stride, padding)).sum()

            gradient = jax.grad(loss, (0, 1))
            # Reverse over reverse, as in second-order MAML: the gradient of <gradient, direction>.
            along = lambda x, k: sum(jnp.vdot(g, d) for g, d in zip(gradient(x, k), direction, strict=True))  # noqa: E731
            return conv(x, kernel, stride, padding), gradient(x, kernel), jax.grad(along, (0, 1))(x, kernel)

        ours, wanted = (
            jax.jit(lambda: derivatives(conv_as_patches))(),
            jax.jit(lambda: derivatives(reference))(),
        )
    assert ours[0].shape == wanted[0].shape
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, wanted)

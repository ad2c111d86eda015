"""Layers against jax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jtl.backbones.layers import conv_of_tiles


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (2, 9, 7, 3)], ids=["whole tiles", "a remainder"])
def test_tiles_times_weights_are_the_convolution(key, shape):
    x, kernel = jax.random.normal(key, shape), jax.random.normal(key, (4, 4, 3, 5))

    def convolution(x, kernel):
        return lax.conv_general_dilated(x, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    # 48 products a sum, of order 1: float32 rounding in another order.
    np.testing.assert_allclose(conv_of_tiles(x, kernel), convolution(x, kernel), rtol=1e-5, atol=1e-5)
    grads = [jax.grad(lambda *a, f=f: jnp.square(f(*a)).sum(), (0, 1))(x, kernel) for f in (conv_of_tiles, convolution)]
    for got, wanted in zip(*grads, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)

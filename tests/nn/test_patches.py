"""Convolution as patches is the convolution, and so are its first and second derivatives."""

import numpy as np
import pytest
from derivatives import same_to_second_order
from jax import lax

from jtl.nn.patches import conv_as_patches

CASES = [
    (3, 1, 1, (5, 6)),
    (3, 2, 1, (7, 6)),
    (3, 2, 1, (1, 2)),
    (1, 2, 0, (5, 5)),
    (7, 2, 3, (9, 8)),
    (4, 4, 0, (8, 8)),
]


@pytest.mark.parametrize(("side", "stride", "padding", "size"), CASES)
def test_equals_lax_and_so_do_its_derivatives(side, stride, padding, size):
    pads = ((padding, padding), (padding, padding))

    def reference(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(side, side, 3, 4))
    same_to_second_order(lambda x, k: conv_as_patches(x, k, stride, padding), reference, x, kernel)

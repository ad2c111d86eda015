"""What the gradient of a depthwise convolution does not do."""

import jax
import jax.numpy as jnp
import pytest

from jtl.backbones.depthwise import depthwise

BORDERS = ((3, 3), (3, 3))


@pytest.mark.parametrize("by", [0, 1], ids=["images", "kernel"])
def test_the_gradient_writes_no_copy_for_each_weight(by):
    """49 shifted copies of the images, or 49 padded ones of the gradient, are what XLA makes of it unaided."""
    x, kernel = jnp.ones((2, 24, 24, 16)), jnp.ones((7, 7, 1, 16))
    run = jax.jit(jax.grad(lambda x, k: jnp.tanh(depthwise(x, k, 1, BORDERS)).sum(), by))
    assert run.lower(x, kernel).compile().memory_analysis().temp_size_in_bytes < 8 * x.nbytes


def test_a_normalisation_after_it_does_not_take_it_apart():
    """The products and their sum are one loop, which no reduction that follows takes some of into its own."""

    def normalised(x, kernel):
        y = depthwise(x, kernel, 1, BORDERS)
        return y - y.mean(-1, keepdims=True)

    x, kernel = jnp.ones((4, 56, 56, 96)), jnp.ones((7, 7, 1, 96))
    compiled = jax.jit(normalised).lower(x, kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * x.nbytes

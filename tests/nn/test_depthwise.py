"""What the gradient of a depthwise convolution does not do."""

import jax
import jax.numpy as jnp

from jtl.nn.depthwise import depthwise

BORDERS = ((3, 3), (3, 3))


def gradient(by):
    x, kernel = jnp.ones((2, 24, 24, 16)), jnp.ones((7, 7, 1, 16))
    run = jax.jit(jax.grad(lambda x, k: jnp.tanh(depthwise(x, k, 1, BORDERS)).sum(), by))
    return run.lower(x, kernel).compile(), x.nbytes


def test_the_kernels_gradient_writes_no_copy_of_the_images_for_each_weight():
    """Unaided XLA makes it of 49 shifted ones."""
    compiled, size = gradient(1)
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * size


def test_the_images_gradient_is_padded_once():
    """And not for each weight, where every read asks whether it is of a border."""
    compiled, _ = gradient(0)
    assert 1 <= compiled.as_text().count(" pad(") <= 3


def test_a_normalisation_after_it_does_not_take_it_apart():
    """The products and their sum are one loop, which no reduction that follows takes some of into its own."""

    def normalised(x, kernel):
        y = depthwise(x, kernel, 1, BORDERS)
        return y - y.mean(-1, keepdims=True)

    x, kernel = jnp.ones((4, 56, 56, 96)), jnp.ones((7, 7, 1, 96))
    compiled = jax.jit(normalised).lower(x, kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * x.nbytes

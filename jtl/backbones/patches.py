"""Convolution as one matrix product: patches @ weights."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def conv_as_patches(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array | np.ndarray, "kh kw in_channels out_channels"],
    stride: int,
    padding: int,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The cross-correlation that `lax.conv_general_dilated` computes, as a product with unfolded patches.

    XLA's CPU backend is slow where weights differ from task to task and at derivatives of derivatives of
    convolutions; those of slices and matrix products are slices and matrix products again.

    Args:
      x: images.
      kernel: weights, height first, as in `lax`'s "HWIO".
      stride: the same in both directions.
      padding: zeros added at each border.
    """
    kh, kw, channels, out = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    b, h, w, _ = x.shape
    rows, columns = (h - kh) // stride + 1, (w - kw) // stride + 1
    shifted = [
        lax.slice(
            x,
            (0, i, j, 0),
            (b, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels),
            (1, stride, stride, 1),
        )
        for i in range(kh)
        for j in range(kw)
    ]
    patches = jnp.concatenate(shifted, -1).reshape(b * rows * columns, kh * kw * channels)
    return (patches @ kernel.reshape(-1, out)).reshape(b, rows, columns, out)

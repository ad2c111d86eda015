"""Convolution as one matrix product: patches @ weights."""

from collections.abc import Iterator

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

    XLA's CPU backend is slow at convolutions whose weights differ per task, and at their second derivatives; the
    derivatives of slices and matrix products are slices and matrix products again.

    Args:
      x: images.
      kernel: weights, height first, as in `lax`'s "HWIO".
      stride: stride in both directions.
      padding: zeros added at each border.
    """
    kh, kw, channels, out = kernel.shape
    shifted = list(taps(x, (kh, kw), stride, ((padding, padding), (padding, padding))))
    b, rows, columns, _ = shifted[0].shape
    patches = jnp.concatenate(shifted, -1).reshape(b * rows * columns, kh * kw * channels)
    return (patches @ kernel.reshape(-1, out)).reshape(b, rows, columns, out)


def taps(
    x: Float[Array, "batch height width channels"],
    sides: tuple[int, int],
    stride: int,
    borders: tuple[tuple[int, int], tuple[int, int]],
) -> Iterator[Float[Array, "batch out_height out_width channels"]]:
    """The inputs of each position in a kernel with these sides, row by row: x, zero-padded, shifted and strided."""
    x = jnp.pad(x, ((0, 0), *borders, (0, 0)))
    b, h, w, channels = x.shape
    rows, columns = (h - sides[0]) // stride + 1, (w - sides[1]) // stride + 1
    for i in range(sides[0]):
        for j in range(sides[1]):
            end = (b, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels)
            yield lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))

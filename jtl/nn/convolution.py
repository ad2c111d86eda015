"""Convolutions, in the form that is fastest on the platform.

On every platform but a CPU that is `lax`'s. XLA's CPU backend takes several times as long as matrix products for the
gradient of a convolution, and tens to hundreds of times as long for depthwise and grouped ones.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jtl.nn.depthwise import Borders, depthwise
from jtl.nn.grouped import blocks_of_groups, products_of_blocks
from jtl.nn.patches import taps
from jtl.ops import by_platform

SMALL = 64  # up to this many pixels a map's gradient is faster as products
LARGE = 1000  # above this many pixels products need so many copies of the map that a kernel's gradient is slower
FEW = 8  # so many convolutions in place of one still compile fast in XLA


def convolution(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array | np.ndarray, "kh kw inputs out_channels"],
    stride: int,
    borders: Borders,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The cross-correlation that `lax.conv_general_dilated` computes, in `in_channels / inputs` groups of channels.

    Args:
      x: images.
      kernel: weights, height first, as in `lax`'s "HWIO".
      stride: stride in both directions.
      borders: zeros added at the borders.
    """
    kernel = jnp.asarray(kernel)
    sides, padded = kernel.shape[:2], borders != ((0, 0), (0, 0))
    if x.shape[-1] != kernel.shape[2]:
        grouped = kernel.shape[2] > 1 or kernel.shape[3] != x.shape[-1]
        return _or_on_cpu(x, kernel, stride, borders, _grouped if grouped else depthwise)
    if sides == (1, 1) and not padded:
        # XLA in jax 0.11 aborts when it compiles a product of every second pixel, reshaped, for a GPU.
        return rows_product(x, kernel[0, 0]) if stride == 1 else _or_on_cpu(x, kernel, stride, borders, _thinned)
    if sides == (stride, stride) and not padded:
        return conv_of_tiles(x, kernel)
    return _plain(x, kernel, stride, borders)


def rows_product(
    x: Float[Array, "*lead inputs"], kernel: Float[Array, "inputs outputs"], **options: Any
) -> Float[Array, "*lead outputs"]:
    """`x @ kernel` as one product of two matrices; options as for `lax.dot_general`.

    With several leading axes the gradient of the kernel would sum over each of them. XLA's CPU backend would then first
    transpose the cotangents, and recompute in that order everything they come from.
    """
    y = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def conv_of_tiles(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "side side in_channels out_channels"],
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The convolution whose stride equals its side: tiles that do not overlap, times the weights.

    It is a matrix product on every platform. Rows and columns that do not fill a tile are ignored, as in a convolution.
    """
    side, _, channels, out = kernel.shape
    b, h, w = x.shape[0], x.shape[1] // side, x.shape[2] // side
    tiles = x[:, : h * side, : w * side].reshape(b, h, side, w, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return rows_product(tiles.reshape(b, h, w, side * side * channels), kernel.reshape(-1, out))


def _thinned(x: Array, kernel: Array, stride: int, borders: Borders) -> Array:
    del borders
    return rows_product(x[:, ::stride, ::stride], kernel[0, 0])


def _lax(x: Array, kernel: Array, stride: int, borders: Borders) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        borders,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


@partial(jax.jit, static_argnums=(2, 3, 4))  # so that jax differentiates and lowers it once for several layers
def _or_on_cpu(x: Array, kernel: Array, stride: int, borders: Borders, form: Callable[..., Array]) -> Array:
    """`lax`'s convolution, or on a CPU the function `form`."""
    by_lax, by_form = (partial(f, stride=stride, borders=borders) for f in (_lax, form))
    return by_platform(x, kernel, cpu=by_form, default=by_lax)


def _as_products(x: Array, kernel: Array, stride: int, borders: Borders) -> Array:
    """One product for each position in the kernel, whose derivatives are matrix products again."""
    kh, kw, inputs, out = kernel.shape
    # The gradient of a split is a concatenation; that of an index would be a kernel of zeros, one for each position.
    weights = lax.split(kernel.reshape(-1, out), [inputs] * (kh * kw))
    return reduce(add, (rows_product(x, w) for x, w in zip(taps(x, (kh, kw), stride, borders), weights, strict=True)))


def _later(x: Array, kernel: Array, stride: int, borders: Borders) -> Array:
    """The same, but keeps `x` for the kernel's gradient, not one copy of it per position in the kernel."""
    return jax.checkpoint(partial(_as_products, stride=stride, borders=borders))(x, kernel)


def _grouped(x: Array, kernel: Array, stride: int, borders: Borders) -> Array:
    """Blocks of groups, each a separate convolution, or all in one batch of products if there are many."""
    kernels = blocks_of_groups(kernel, x.shape[-1])
    if len(kernels) > FEW:
        return products_of_blocks(x, kernels, stride, borders)
    parts = jnp.split(x, len(kernels), -1)
    return jnp.concatenate([_plain(part, k, stride, borders) for part, k in zip(parts, kernels, strict=True)], -1)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _plain(x: Array, kernel: Array, stride: int, borders: Borders) -> Array:
    return _lax(x, kernel, stride, borders)


def _derivative(stride: int, borders: Borders, primals: Any, tangents: Any) -> tuple[Array, Any]:
    """Linear in each tangent, and written so that its transpose, the gradient, is fast too."""
    (x, kernel), (along_x, along_kernel) = primals, tangents
    y, found = _plain(x, kernel, stride, borders), []
    pixels = y.shape[1] * y.shape[2]
    if not isinstance(along_kernel, SymbolicZero):
        given = x, along_kernel, stride, borders
        found.append(_or_on_cpu(*given, _later) if pixels <= LARGE else _lax(*given))
    if not isinstance(along_x, SymbolicZero):
        small = stride > 1 or pixels <= SMALL
        given = along_x, kernel, stride, borders
        found.append(_or_on_cpu(*given, _as_products) if small else _lax(*given))
    return y, reduce(add, found) if found else jnp.zeros_like(y)


_plain.defjvp(_derivative, symbolic_zeros=True)

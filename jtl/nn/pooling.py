"""Max-pooling and average pooling of maps."""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jtl.ops import by_platform


def max_pool(
    x: Float[Array, "batch height width channels"], side: int = 2, stride: int = 2, border: int = 0
) -> Float[Array, "batch rows columns channels"]:
    """The largest value of each window; rows and columns that do not fill a window are ignored.

    If values are equal, the first receives the gradient, as in torch. It is computed from slices if windows do not
    overlap, and on a CPU, where XLA's own form takes ten times as long for the gradient. Slices can be differentiated
    any number of times.

    Args:
      x: the maps.
      side: side of a window, in pixels.
      stride: pixels from one window to the next.
      border: pixels added on each side, which are never the largest.
    """

    def sliced(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), constant_values=-jnp.inf)
        return _windows(_windows(x, 2, side, stride, _larger), 1, side, stride, _larger)

    if side == stride:
        return sliced(x)
    around: Any = ((border, border),) * 2  # flax accepts it, but its annotation is str
    return by_platform(x, cpu=sliced, default=lambda x: nn.max_pool(x, (side, side), (stride, stride), around))


def mean_around(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
    """The mean of the 3x3 pixels around each pixel, with zeros outside the map: torch's AvgPool2d(3, 1, 1)."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _windows(_windows(x, 2, 3, 1, add), 1, 3, 1, add) / 9


def _windows(x: Array, axis: int, side: int, stride: int, combine: Callable[[Array, Array], Array]) -> Array:
    """Combines each window's values along one axis, one after another."""
    last = (x.shape[axis] - side) // stride * stride
    return reduce(combine, (lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(side)))


@jax.custom_jvp
def _larger(a: Array, b: Array) -> Array:
    return jnp.maximum(a, b)  # its own derivative splits the gradient between two equal values


@_larger.defjvp
def _derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, b = primals
    return _larger(a, b), jnp.where(a >= b, *tangents)


def mean_pool(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns channels"]:
    """The mean of each 2x2 window; at an odd last row or column, of the pixels inside the map.

    As torch's AvgPool2d(2, ceil_mode=True, count_include_pad=False): repeating the last row or column gives that mean.
    """
    b, h, w, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), "edge")
    return x.reshape(b, -(-h // 2), 2, -(-w // 2), 2, channels).mean((2, 4))


def mean_to(x: Float[Array, "batch height width channels"], side: int) -> Float[Array, "batch side side channels"]:
    """Means over `side x side` windows, which overlap if `side` does not divide the map: torch's AdaptiveAvgPool2d.

    Along an axis of n pixels, window i goes from `⌊i n / side⌋` to `⌈(i + 1) n / side⌉`.
    """
    for axis in (1, 2):
        if x.shape[axis] != side:
            weights = jnp.asarray(_window_means(x.shape[axis], side), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(weights, x, ((1,), (axis,))), 0, axis)
    return x


def _window_means(pixels: int, side: int) -> np.ndarray:
    weights = np.zeros((side, pixels))
    for i in range(side):
        start, end = i * pixels // side, -(-(i + 1) * pixels // side)
        weights[i, start:end] = 1 / (end - start)
    return weights

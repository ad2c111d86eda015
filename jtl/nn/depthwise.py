"""Depthwise convolutions as sums of shifted products, whose gradients are such sums too.

XLA's CPU backend takes tens of times as long for depthwise convolutions as for these sums, which it fuses into one
loop. It does so for slices of one array in memory, so the sliced array is `computed_once`. A gradient is the transpose
of a derivative's linear program, so the derivatives are written such that their transposes are sums over slices.
"""

from functools import partial, reduce
from itertools import product
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jtl.nn.patches import taps
from jtl.ops import computed_once

Borders = tuple[tuple[int, int], tuple[int, int]]
"""Zeros above and below, left and right."""


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def depthwise(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kh kw 1 channels"],
    stride: int,
    borders: Borders,
) -> Float[Array, "batch out_height out_width channels"]:
    """The cross-correlation of each channel with its own kernel.

    Args:
      x: images.
      kernel: weights, height first.
      stride: stride in both directions.
      borders: zeros added at the borders.
    """
    kh, kw = kernel.shape[:2]
    seen = taps(_padded(x, borders), (kh, kw), stride, ((0, 0), (0, 0)))
    y = reduce(add, (x * w for x, w in zip(seen, _weights(kernel), strict=True)))
    # XLA's library of reductions would fuse a following normalisation with the last products, and for that would first
    # write out all their factors. It does not fuse across a choice whose condition is unknown.
    return jnp.where(lax.optimization_barrier(jnp.ones((), bool)), y, jnp.zeros_like(y))


def _derivative(stride: int, borders: Borders, primals: Any, tangents: Any) -> tuple[Array, Any]:
    (x, kernel), (along_x, along_kernel) = primals, tangents
    y, found = depthwise(x, kernel, stride, borders), []
    if not isinstance(along_kernel, SymbolicZero):
        found.append(_along_kernel(x, along_kernel, stride, borders, y.shape))
    if not isinstance(along_x, SymbolicZero):
        found.append(_along_x(along_x, kernel, stride, borders, y.shape))
    return y, reduce(add, found) if found else jnp.zeros_like(y)


depthwise.defjvp(_derivative, symbolic_zeros=True)


@partial(jax.jit, static_argnums=(2, 3, 4))  # because its many operations are differentiated several times
def _along_kernel(x: Array, kernel: Array, stride: int, borders: Borders, shape: tuple[int, ...]) -> Array:
    """One column of the result at a time: its inputs, times the kernel copied to every row by a matrix product.

    The transpose sums over all columns, in one loop for each row of the kernel, and then over the rows by that product.
    (A sum over rows would be fused into the loop and take five times as long.)
    """
    (kh, kw), (b, h, w, channels) = kernel.shape[:2], shape
    dtype = jnp.result_type(x, kernel)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x = _padded(x, borders).astype(wide)
    to_rows = jnp.ones((b * h, 1), wide)
    columns: list[list[Array]] = [[] for _ in range(w)]
    for i in range(kh):
        weights = (to_rows @ kernel[i].reshape(1, -1).astype(wide)).reshape(b, h, kw, channels)
        seen = x[:, i : i + (h - 1) * stride + 1 : stride]
        for j, column in enumerate(columns):
            part = lax.slice_in_dim(seen, j * stride, j * stride + kw, axis=2) * weights
            column.append(lax.reduce_sum(part, (2,)))
    return computed_once(jnp.stack([reduce(add, column) for column in columns], 2).astype(dtype))


@partial(jax.jit, static_argnums=(2, 3, 4))  # as above
def _along_x(x: Array, kernel: Array, stride: int, borders: Borders, shape: tuple[int, ...]) -> Array:
    """Adds up each pixel's contributions to all outputs on one canvas, and returns the part that is the result."""
    canvas, part = [], [slice(None)]
    for axis in (0, 1):
        before, side, out = borders[axis][0], kernel.shape[axis], shape[axis + 1]
        low, high = max(side - 1, before), max(0, (out - 1) * stride + 1 - before - x.shape[axis + 1])
        canvas.append([(low - i, high + i, 0) for i in range(side)])
        part.append(slice(low - before, low - before + (out - 1) * stride + 1, stride))
    none, zero = (0, 0, 0), jnp.zeros((), x.dtype)
    shares = (
        lax.pad(x * weight, zero, (none, rows, columns, none))
        for weight, (rows, columns) in zip(_weights(kernel), product(*canvas), strict=True)
    )
    return computed_once(reduce(add, shares))[tuple(part)]


def _weights(kernel: Array) -> Array:
    """[kh · kw, 1, 1, 1, channels]"""
    return kernel.reshape(kernel.shape[0] * kernel.shape[1], 1, 1, 1, -1)


def _padded(x: Array, borders: Borders) -> Array:
    return computed_once(jnp.pad(x, ((0, 0), *borders, (0, 0))))

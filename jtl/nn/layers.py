"""Layers that several backbones share."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from jtl.nn.convolution import convolution, rows_product
from jtl.nn.patches import conv_as_patches
from jtl.typing import Key

fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al.'s normal initialisation, variance `2 / (k² out)`: torch's `kaiming_normal_(mode="fan_out")`."""


def _last_and_first(x: Array, kernel: Array, dimensions: Any, precision: Any = None) -> Array:
    """`rows_product` with the signature that `nn.Dense` calls; always contracts the last axis with the first."""
    del dimensions
    return rows_product(x, kernel, precision=precision)


Dense = partial(nn.Dense, dot_general=_last_and_first)
"""`nn.Dense` computed by `rows_product`."""


class Conv(nn.Module):
    """A convolution, padded alike on each side as in torch ("SAME" would not be, at stride 2).

    Args:
      features: channels of the output.
      kernel: its side, or (height, width) if it is not square.
      stride: stride in both directions.
      padding: zeros at each border, or (before, after) if they differ; "SAME" pads as TensorFlow does, so that the
        map's size is divided by the stride; None for `kernel // 2`.
      bias: whether a bias is added; not needed before a normalisation.
      patches: whether to compute it as patches @ weights.
      kernel_init: initialiser of the kernel.
      depthwise: whether each channel is convolved separately, with its own kernel.
      groups: number of groups of channels, each of which sees only its own; divides the channels before and after.
      standardise: ε with which the kernel is used as `standardised(kernel, ε)`; None uses it as it is.
    """

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padding: int | tuple[int, int] | Literal["SAME"] | None = None
    bias: bool = False
    patches: bool = False
    kernel_init: nn.initializers.Initializer = fan_out_normal
    depthwise: bool = False
    groups: int = 1
    standardise: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        """Maps [batch, height, width, channels] to [batch, height', width', features]."""
        groups = x.shape[-1] if self.depthwise else self.groups
        sides = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        shape = (*sides, x.shape[-1] // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype)
        kernel = kernel if self.standardise is None else standardised(jnp.asarray(kernel), self.standardise)
        pad = self.kernel // 2 if self.padding is None and isinstance(self.kernel, int) else self.padding
        if self.patches and isinstance(pad, int):
            y = conv_as_patches(x, kernel, self.stride, pad)
        else:
            y = convolution(x, kernel, self.stride, _borders(pad, x.shape[1:3], sides, self.stride))
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(x.dtype).reshape(1, 1, 1, -1)


def standardised(kernel: Float[Array, "*dims features"], eps: float) -> Float[Array, "*dims features"]:
    """`(W − μ) / √(σ² + ε)`, with mean and variance over the weights of each output channel, in float32 at least.

    Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, 2019, arXiv
    1903.10520.
    """
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    axes = tuple(range(kernel.ndim - 1))
    wide = wide - wide.mean(axes, keepdims=True)
    return (wide * lax.rsqrt(jnp.square(wide).mean(axes, keepdims=True) + eps)).astype(kernel.dtype)


def _borders(
    pad: int | tuple[int, int] | str | None, size: Sequence[int], sides: Sequence[int], stride: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The zeros before and after, along both axes."""
    if isinstance(pad, str):
        rows, columns = lax.padtype_to_pads(size, sides, (stride, stride), pad)
    elif isinstance(pad, tuple):
        rows = columns = pad
    else:
        rows, columns = ((p, p) for p in (side // 2 if pad is None else pad for side in sides))
    return rows, columns


def check_images(x: ArrayLike, smallest: int = 1) -> Array:
    """Returns the images as a jax array.

    Raises:
      ValueError: if they are not floating-point [batch, height, width, channels], or are too small.
    """
    x = jnp.asarray(x)
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"images of shape {x.shape} and dtype {x.dtype}: "
            "give floating-point ones, normalised, of shape [batch, height, width, channels]"
        )
    if min(x.shape[1:3]) < smallest:
        size = f"{x.shape[1]}x{x.shape[2]}"
        raise ValueError(f"images of {size} pixels: this network needs at least {smallest}x{smallest}")
    return x


def described(x: Any) -> str:
    """Describes a wrong input, for messages: the names of a dict, the shape of an array (or tracer), else the class."""
    if isinstance(x, Mapping):
        return str(sorted(x))
    return f"of shape {x.shape}" if hasattr(x, "shape") else type(x).__name__


class DropPath(nn.Module):
    """Drops whole examples of a residual branch in training and scales the rest by `1 / (1 − rate)`.

    Huang et al., Deep Networks with Stochastic Depth, 2016, arXiv 1603.09382.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns x, with zeros for dropped examples; one draw per example."""
        if not train or self.rate == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


def drop_path_rates(last: float, depths: Sequence[int]) -> list[tuple[float, ...]]:
    """The drop probabilities of each stage's blocks, growing linearly from 0 at the very first block to `last`."""
    count, before = max(sum(depths) - 1, 1), 0
    rates = []
    for depth in depths:
        rates.append(tuple(last * (before + i) / count for i in range(depth)))
        before += depth
    return rates


def drop_layer(key: Key, rate: float, before: Array, after: Array) -> Array:
    """Returns the layer's input `before` with probability `rate`, for all examples at once, else its output `after`.

    The layer is computed in either case.

    Fan et al., Reducing Transformer Depth on Demand with Structured Dropout, 2019, arXiv 1909.11556.
    """
    return jnp.where(jax.random.bernoulli(key, rate), before, after)

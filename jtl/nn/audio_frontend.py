"""Layers that audio backbones share."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jtl.nn.convolution import rows_product
from jtl.nn.layers import described
from jtl.ops import by_platform

TAPS = 16
"""The kernel positions that a grouped convolution multiplies at once, which bounds its memory."""


class Convolution(NamedTuple):
    """The dimensions of a convolution over time.

    Args:
      channels: channels of its output.
      kernel: its length in steps.
      stride: steps from one output to the next.
    """

    channels: int
    kernel: int
    stride: int


class Conv1d(nn.Module):
    """A convolution over time.

    Args:
      features: channels of the output.
      kernel: its length.
      stride: steps from one output to the next.
      padding: zeros before and after.
      bias: whether a bias is added.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch steps channels"]) -> Array:
        """Maps [batch, steps, channels] to [batch, steps', features]."""
        shape = (self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        y = conv1d(x, kernel.astype(x.dtype), self.stride, self.padding)
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(x.dtype).reshape(1, 1, -1)


def conv1d(
    x: Float[Array, "batch steps channels"],
    kernel: Float[Array, "length inputs features"],
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Float[Array, "batch out_steps features"]:
    """The convolution over time, in `channels // inputs` groups of channels that do not see each other.

    It is `lax`'s, except for many groups and for steps that do not overlap: the gradients of these take XLA's CPU
    backend five times as long as matrix products.
    """
    groups = x.shape[-1] // kernel.shape[1]
    if kernel.shape[0] == stride and padding == (0, 0) and groups == 1:
        rows = x[:, : x.shape[1] // stride * stride].reshape(x.shape[0], -1, stride * x.shape[-1])
        return rows_product(rows, kernel.reshape(-1, kernel.shape[-1]))

    def convolution(x: Array, kernel: Array) -> Array:
        dimensions = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(
            x, kernel, (stride,), (padding,), dimension_numbers=dimensions, feature_group_count=groups
        )

    if groups == 1 or stride != 1:
        return convolution(x, kernel)
    return by_platform(x, kernel, cpu=partial(_as_products, padding=padding), default=convolution)


def _as_products(x: Array, kernel: Array, padding: tuple[int, int]) -> Array:
    """Stretches of the sound times stretches of the kernel, `TAPS` long, per group; keeps none for the gradient."""
    batch, (length, inputs, features) = len(x), kernel.shape
    x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    steps, groups = x.shape[1] - length + 1, x.shape[-1] // inputs
    x = x.reshape(batch, -1, groups, inputs).transpose(2, 0, 1, 3)
    kernel = kernel.reshape(length, inputs, groups, -1).transpose(2, 0, 1, 3)

    @jax.checkpoint
    def some(x: Array, kernel: Array) -> Array:
        taps = kernel.shape[1]
        stretches = jnp.stack([x[:, :, i : i + steps] for i in range(taps)], 3)
        return stretches.reshape(groups, batch * steps, -1) @ kernel.reshape(groups, taps * inputs, -1)

    y = jnp.zeros((groups, batch * steps, features // groups), x.dtype)
    for i in range(0, length, TAPS):
        y = y + some(x[:, :, i:], kernel[:, i : i + TAPS])
    return y.reshape(groups, batch, steps, -1).transpose(1, 2, 0, 3).reshape(batch, steps, features)


def check_waves(x: Any, least: int) -> tuple[Array, Array | None]:
    """Returns (wave, mask) of an input, each [batch, samples]; the mask is None if there is none.

    Args:
      x: {"wave": ..., "mask": ...}; the mask is optional.
      least: number of samples that the network needs.

    Raises:
      ValueError: if the input is not such a dict, its arrays have other dtypes or shapes, or the sounds are too short.
    """
    if not isinstance(x, Mapping) or not {"wave"} <= set(x) <= {"wave", "mask"}:
        raise ValueError(f"the input is {described(x)}: give a dict of 'wave' and, where sounds are padded, 'mask'")
    wave, mask = jnp.asarray(x["wave"]), jnp.asarray(x["mask"]) if "mask" in x else None
    if wave.ndim != 2 or not jnp.issubdtype(wave.dtype, jnp.floating):
        raise ValueError(f"waves of shape {wave.shape} and dtype {wave.dtype}: give floats [batch, samples]")
    if mask is not None and (mask.shape != wave.shape or mask.dtype != bool):
        raise ValueError(f"a mask of shape {mask.shape} and dtype {mask.dtype}: give booleans {list(wave.shape)}")
    if wave.shape[1] < least:
        raise ValueError(f"sounds of {wave.shape[1]} samples: this network needs at least {least}")
    return wave, mask


def samples_of_frame(convolutions: Sequence[Convolution]) -> int:
    """The receptive field in samples of one frame, an output of all convolutions."""
    samples = 1
    for _, kernel, stride in reversed(convolutions):
        samples = (samples - 1) * stride + kernel
    return samples


def mask_of_frames(
    mask: Bool[Array, "batch samples"], convolutions: Sequence[Convolution], frames: int
) -> Bool[Array, "batch frames"]:
    """The mask of frames whose receptive field holds no padding; at least the first frame, for very short sounds."""
    lengths = mask.sum(1)
    for _, kernel, stride in convolutions:
        lengths = (lengths - kernel) // stride + 1
    return jnp.arange(frames)[None] < jnp.maximum(lengths, 1)[:, None]

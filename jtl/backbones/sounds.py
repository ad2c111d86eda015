"""What backbones of sounds share."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


class Convolution(NamedTuple):
    """The measures of a convolution over time.

    Args:
      channels: of its output.
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
      bias: whether one is added.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch steps channels"]) -> Array:
        """[batch, steps, channels] to [batch, steps', features]."""
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
    """The convolution over time, in `channels // inputs` groups of channels that do not see each other."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,),
        (padding,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[-1] // kernel.shape[1],
    )


def check_waves(x: Any, least: int) -> tuple[Array, Array | None]:
    """(wave, mask) of an input, each [batch, samples]; no mask where it has none.

    Args:
      x: {"wave": ..., "mask": ...}, the mask being optional.
      least: samples that the network needs.

    Raises:
      ValueError: where it is no dict of them, they are of other numbers or shapes, or too short.
    """
    if not isinstance(x, Mapping) or not {"wave"} <= set(x) <= {"wave", "mask"}:
        given = sorted(x) if isinstance(x, Mapping) else type(x).__name__
        raise ValueError(f"the input is {given}: give a dict of 'wave' and, where sounds are padded, 'mask'")
    wave, mask = jnp.asarray(x["wave"]), jnp.asarray(x["mask"]) if "mask" in x else None
    if wave.ndim != 2 or not jnp.issubdtype(wave.dtype, jnp.floating):
        raise ValueError(f"waves of shape {wave.shape} and dtype {wave.dtype}: give floats [batch, samples]")
    if mask is not None and (mask.shape != wave.shape or mask.dtype != bool):
        raise ValueError(f"a mask of shape {mask.shape} and dtype {mask.dtype}: give booleans {list(wave.shape)}")
    if wave.shape[1] < least:
        raise ValueError(f"sounds of {wave.shape[1]} samples: this network needs at least {least}")
    return wave, mask


def samples_of_frame(convolutions: Sequence[Convolution]) -> int:
    """How many samples one frame, the output of all convolutions, sees."""
    samples = 1
    for _, kernel, stride in reversed(convolutions):
        samples = (samples - 1) * stride + kernel
    return samples


def mask_of_frames(
    mask: Bool[Array, "batch samples"], convolutions: Sequence[Convolution], frames: int
) -> Bool[Array, "batch frames"]:
    """Which frames see samples of the sound alone: padding comes after it. Of the shortest sounds, the first."""
    lengths = mask.sum(1)
    for _, kernel, stride in convolutions:
        lengths = (lengths - kernel) // stride + 1
    return jnp.arange(frames)[None] < jnp.maximum(lengths, 1)[:, None]

"""Adapts an image network to another number of channels than that of its weights."""

import math
from typing import Any

import jax
import numpy as np

from jtl.backbones.registry import Config, Family
from jtl.preprocess.image import Preprocessing


def repeat_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Converts the first kernel, [..., in, out], to another number of channels, as timm does.

    For one channel, channels are summed, so that a grey image has the same output as its copies in all channels before.
    Otherwise they are repeated, k'_c = k_(c mod n) n / m for n channels before and m after, to keep the outputs' scale.

    Args:
      kernel: the kernel of a convolution.
      channels: the new number of channels.
    """
    before = kernel.shape[-2]
    if channels == before:
        return kernel
    exact = kernel.astype(np.promote_types(kernel.dtype, np.float32))
    if channels == 1:
        return exact.sum(-2, keepdims=True).astype(kernel.dtype)
    repeated = np.concatenate([exact] * math.ceil(channels / before), -2)[..., :channels, :]
    return (repeated * np.asarray(before / channels, exact.dtype)).astype(kernel.dtype)


def rechannelled(family: Family, config: Config, channels: int) -> Config:
    """Returns the config with another number of channels.

    Raises:
      ValueError: for a number out of range, a network that takes no images, or one whose number of channels is fixed.
    """
    if type(channels) is not int or not 1 <= channels <= 1 << 12:
        raise ValueError(f"in_chans={channels!r}: give a whole number from 1 to {1 << 12}")
    example = family.example(config)
    if not isinstance(example, jax.ShapeDtypeStruct) or len(example.shape) != 4:
        raise ValueError(f"in_chans={channels}: a {config.model_type} takes no images")
    if hasattr(config, "num_channels"):
        return config.replace(num_channels=channels)
    if example.shape[-1] != channels:
        raise ValueError(
            f"in_chans={channels}: a {config.model_type} takes images of {example.shape[-1]} channels only"
        )
    return config


def same_scale(images: Any, channels: int) -> Any:
    """Sets mean and deviation for another number of channels to their averages over the old channels, as timm does."""
    if not isinstance(images, Preprocessing) or len(images.mean) == channels:
        return images
    mean, std = (math.fsum(values) / len(values) for values in (images.mean, images.std))
    return images._replace(mean=(mean,) * channels, std=(std,) * channels)

"""A network of images with another number of channels than its weights were made for."""

import math
from typing import Any

import jax
import numpy as np

from jtl.backbones.registry import Config, Family
from jtl.preprocess.image import Preprocessing


def repeat_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The first kernel, [..., in, out], for another number of channels, as timm does it.

    For one channel the sum, so that a grey image gives what its copy in every channel gave. Else the channels are
    repeated, k'_c = k_(c mod n) n / m for n channels before and m after, so that outputs keep their scale.

    Args:
      kernel: of a convolution.
      channels: how many there will be.
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
    """The config for another number of channels.

    Raises:
      ValueError: for a number below 1, or a network without images or with a number that is fixed.
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
    """Mean and deviation of another number of channels: the average of those there were, as timm has it."""
    if not isinstance(images, Preprocessing) or len(images.mean) == channels:
        return images
    mean, std = (math.fsum(values) / len(values) for values in (images.mean, images.std))
    return images._replace(mean=(mean,) * channels, std=(std,) * channels)

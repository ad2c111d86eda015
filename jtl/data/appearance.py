"""Colour jitter, erasing, masked patches and SpecAugment: `(key, x) -> x`, as in `jtl.data.augment`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jtl import checked
from jtl.data.augment import Augment
from jtl.data.geometry import Photometric, images_only
from jtl.typing import Key

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in a grey image (ITU-R BT.601)."""


def jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> Augment:
    """Colour jitter of float images in [0, 1]: brightness, then contrast, then saturation.

    Each is a blend `f·x + (1−f)·z`, clipped to [0, 1], with f uniform in [max(0, 1−s), 1+s] for every example: z is
    black for brightness, the mean of the grey image for contrast, and the grey image for saturation.

    Args:
      brightness: the strength s >= 0.
      contrast: likewise.
      saturation: likewise; needs 3 channels.

    Raises:
      ValueError: for strengths that are negative or not finite, or all 0; while tracing, for saturation without 3
        channels, or images that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import appearance
      >>> appearance.jitter(0.4, 0.4, 0.4)(jax.random.key(0), jnp.ones((2, 8, 10, 3)) / 2).shape
      (2, 8, 10, 3)
    """
    strengths = (brightness, contrast, saturation)
    checked.within("[0, inf)", brightness=brightness, contrast=contrast, saturation=saturation)
    if not any(strengths):
        raise ValueError(f"brightness, contrast and saturation are {strengths}: give one above 0")

    def grey(x: Array) -> Array:
        return (x @ jnp.asarray(LUMA, x.dtype))[..., None] if x.shape[-1] == 3 else x.mean(-1, keepdims=True)

    def apply(key: Key, x: Any) -> Array:
        images_only(x)
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"jitter needs float images in [0, 1], got {x.dtype}; divide by 255 first")
        if saturation and x.shape[-1] != 3:
            raise ValueError(f"saturation={saturation} needs 3 channels; the images have {x.shape[-1]}")
        others = (jnp.zeros_like, lambda x: grey(x).mean((1, 2), keepdims=True), grey)
        for i, (strength, other) in enumerate(zip(strengths, others, strict=True)):
            if strength:
                own = jax.random.fold_in(key, i)
                f = jax.random.uniform(own, (len(x), 1, 1, 1), x.dtype, max(0.0, 1 - strength), 1 + strength)
                x = jnp.clip(f * x + (1 - f) * other(x), 0, 1)
        return x

    return Photometric("jitter", apply)


def erase(
    probability: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: float = 0.0,
) -> Augment:
    """Sets a random rectangle to a value, in each example with this probability. Labels stay as they are.

    The share of the area is uniform in `scale`, the ratio of width to height log-uniform in `ratio`; sides longer than
    the image's are cut to fit. Put it after `normalise`, whose result has mean 0.

    Raises:
      ValueError: for a probability or bounds out of range; while tracing, for a value that images of integers cannot
        hold.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import appearance
      >>> appearance.erase(0.5)(jax.random.key(0), jnp.ones((2, 8, 10, 3))).shape
      (2, 8, 10, 3)

    Zhong et al., Random Erasing Data Augmentation, 2017, arXiv 1708.04896.
    """
    checked.within("[0, 1]", probability=probability)
    if not isinstance(value, Tracer):
        checked.within("(-inf, inf)", **checked.each("value", np.ravel(value)))
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1] < float("inf"):
        raise ValueError(f"scale={scale}, ratio={ratio}: bounds must be sorted, in (0, 1], and positive and finite")

    def apply(key: Key, x: Any) -> Array:
        images_only(x)
        chosen, place = jax.random.split(key)
        top, left, h, w = (side[:, None] for side in _rectangles(place, x, scale, ratio))
        rows, columns = jnp.arange(x.shape[1])[None] + 0.5, jnp.arange(x.shape[2])[None] + 0.5
        inside = ((rows >= top) & (rows < top + h))[:, :, None] & ((columns >= left) & (columns < left + w))[:, None]
        erased = inside & jax.random.bernoulli(chosen, probability, (len(x), 1, 1))
        return jnp.where(erased[..., None], _held(value, x), x)

    return Photometric("erase", apply)


def _rectangles(key: Key, x: Any, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[Array, ...]:
    """Top, left, height and width of one rectangle in each image, [batch], in pixels and fractions of pixels."""
    height, width = x.shape[1:3]
    of_area, of_ratio, of_place = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(of_area, (len(x),), minval=scale[0], maxval=scale[1])
    low, high = jnp.log(jnp.asarray(ratio))
    shape = jnp.exp(jax.random.uniform(of_ratio, (len(x),), minval=low, maxval=high))
    h, w = jnp.minimum(jnp.sqrt(area / shape), height), jnp.minimum(jnp.sqrt(area * shape), width)
    top, left = jax.random.uniform(of_place, (2, len(x)))
    return top * (height - h), left * (width - w), h, w


def _held(value: Any, x: Any) -> Array:
    """The value in the dtype of images; refused where integers would cut or wrap it."""
    if jnp.issubdtype(x.dtype, jnp.integer) and not isinstance(value, Tracer):
        info = jnp.iinfo(x.dtype)
        for one in np.ravel(value):
            if round(one) != one or not info.min <= one <= info.max:
                raise ValueError(f"value={one}: images of {x.dtype} hold whole numbers of {info.min} to {info.max}")
    return jnp.asarray(value, x.dtype)


def mask_patches(patch: int, ratio: float, value: float = 0.0) -> Augment:
    """Sets each square patch of an image to a value, independently with probability r.

    The patches are a grid of b x b pixels from the upper left corner. Labels stay as they are. With 0, put it after
    `normalise`, whose result has mean 0.

    Args:
      patch: b, the side of a patch in pixels, by which height and width can be divided.
      ratio: r, in [0, 1]: 0 masks nothing and 1 everything.
      value: the value of masked pixels.

    Raises:
      ValueError: for a patch that is not an integer of at least 1, or a ratio or value out of range; while tracing, for
        images that do not divide into such patches, or images of integers that cannot hold the value.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import appearance
      >>> masked = appearance.mask_patches(2, 0.5)(jax.random.key(0), jnp.ones((1, 2, 8, 1)))
      >>> masked[0, 0, :, 0].tolist()
      [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation, 2022, arXiv 2212.01322.
    """
    checked.whole(1, patch=patch)
    checked.within("[0, 1]", ratio=ratio)
    checked.within("(-inf, inf)", value=value)

    def apply(key: Key, x: Any) -> Array:
        images_only(x)
        height, width = x.shape[1:3]
        if height % patch or width % patch:
            raise ValueError(
                f"images of {height} x {width} do not divide into patches of {patch}: give a divisor of"
                f" {math.gcd(height, width)}"
            )
        grid = jax.random.uniform(key, (len(x), height // patch, width // patch), jnp.float32) < ratio
        masked = jnp.repeat(jnp.repeat(grid, patch, 1), patch, 2)
        return jnp.where(masked[..., None], _held(value, x), x)

    return Photometric("mask_patches", apply)


def spec_augment(
    frequency: int, time: int, frequency_masks: int = 2, time_masks: int = 2, value: float = 0.0
) -> Augment:
    """Masks bands of spectrograms [batch, time, bands]: the widths are uniform in 0 … F and 0 … T, the places uniform.

    The paper's time warping is left out, because it changes little according to its table 5.

    Args:
      frequency: F, at most the number of bands.
      time: T, at most the number of frames.
      frequency_masks: the number of masked bands of frequencies.
      time_masks: the number of masked spans of time.
      value: the value of masked numbers; 0 is the mean of normalised spectrograms.

    Raises:
      ValueError: for numbers that are not integers of at least 0, or no mask at all; while tracing, for another rank or
        masks that may be too wide.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import appearance
      >>> appearance.spec_augment(4, 8)(jax.random.key(0), jnp.ones((2, 50, 16))).shape
      (2, 50, 16)

    Park et al., SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition, 2019, arXiv
    1904.08779.
    """
    checked.whole(0, frequency=frequency, time=time, frequency_masks=frequency_masks, time_masks=time_masks)
    checked.within("(-inf, inf)", value=value)
    if not (frequency * frequency_masks or time * time_masks):
        numbers = (frequency, time, frequency_masks, time_masks)
        raise ValueError(f"frequency, time and the numbers of masks are {numbers}: give a mask of some width")

    def masked(key: Key, batch: int, n: int, widest: int, count: int) -> Array:
        of_width, of_place = jax.random.split(key)
        width = jax.random.randint(of_width, (batch, count, 1), 0, widest + 1)
        first = jnp.floor(jax.random.uniform(of_place, (batch, count, 1)) * (n - width + 1)).astype(jnp.int32)
        at = jnp.arange(n)[None, None]
        return ((at >= first) & (at < first + width)).any(1)

    def apply(key: Key, x: Any) -> Array:
        if x.ndim != 3 or time > x.shape[1] or frequency > x.shape[2]:
            raise ValueError(f"spectrograms of shape {x.shape}, time={time}, frequency={frequency}: give [batch, T, F]")
        of_time, of_band = jax.random.split(key)
        frames = masked(of_time, len(x), x.shape[1], time, time_masks)
        bands = masked(of_band, len(x), x.shape[2], frequency, frequency_masks)
        return jnp.where(frames[:, :, None] | bands[:, None], jnp.asarray(value, x.dtype), x)

    return Photometric("spec_augment", apply)

"""Augmentation of sounds as log-mel spectrograms: `(key, x) -> x` on the device, as in `jtl.data.augment`.

`x` is [batch, frames, bands], as `jtl.preprocess.audio.inputs` returns it for a network of spectrograms. Labels are of
whole sounds or are sequences: labels of moments do not move with the sound. For waves see `jtl.data.waves`; masks of
time and frequency are `jtl.data.appearance.spec_augment`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import checked
from jtl.data.augment import Augment
from jtl.data.waves import stretched
from jtl.preprocess.spectrogram import band_corners, hertz_of, mel_of
from jtl.typing import Key

Spectrograms = Float[Array, "batch frames bands"]


def speed(rate: int, slowest: float = 0.9, fastest: float = 1.1) -> Augment:
    """Plays each sound at a factor α of its speed, uniform in [slowest, fastest]: `S'(t, h) = S(α t, h / α)`.

    The spectrogram is interpolated linearly in time and along the mel scale, so pitch and formants rise with α, and the
    sound becomes 1/α as long. What comes from behind the end or from above the highest band is the smallest number of
    the spectrogram, its silence.

    Args:
      rate: samples per second of the sounds, such as `jtl.load(...).preprocessing.rate`; it gives the bands' hertz.
      slowest: the smallest factor.
      fastest: the largest factor.

    Raises:
      ValueError: for a rate that is not an integer of at least 1, factors outside (0, inf), or `slowest` above
        `fastest`; while tracing, for another shape.
      TypeError: while tracing, for spectrograms that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import spectrograms
      >>> spectrograms.speed(16000)(jax.random.key(0), jnp.ones((2, 50, 16))).shape
      (2, 50, 16)

    Ko et al., Audio augmentation for speech recognition, Interspeech 2015 (of waves, with factors of 0.9, 1.0 and 1.1);
    Jaitly and Hinton, Vocal Tract Length Perturbation improves speech recognition, ICML workshop 2013.
    """
    checked.whole(1, rate=rate)
    checked.positive(slowest=slowest, fastest=fastest)
    checked.ordered(slowest=slowest, fastest=fastest)

    def change(key: Key, x: Any) -> Spectrograms:
        _, frames, bands = x.shape
        drawn = jax.random.uniform(key, (len(x), 1), minval=slowest, maxval=fastest)
        corners = band_corners(bands, rate)
        centres = jnp.asarray(hertz_of(corners[1:-1]), jnp.float32)[None]
        place = mel_of(centres / drawn, jnp) / float(corners[1]) - 1
        low, silence = jnp.floor(place), _silence(x)
        x = _between(x, jnp.maximum(low, 0).astype(jnp.int32), jnp.where(low < 0, 0, place - low), silence, 2)
        return _between(x, *stretched(drawn, frames), silence, 1)

    return _augment("speed", change)


def shift(longest: int) -> Augment:
    """Delays each sound by a number of frames that is uniform in 0 … `longest`, and cuts what no longer fits.

    The frames before the sound are the smallest number of the spectrogram, its silence.

    Raises:
      ValueError: for a number that is not an integer of at least 1; while tracing, for another shape, or a delay that
        may be longer than the spectrogram.
      TypeError: while tracing, for spectrograms that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import spectrograms
      >>> spectrograms.shift(5)(jax.random.key(0), jnp.ones((2, 50, 16))).shape
      (2, 50, 16)
    """
    checked.whole(1, longest=longest)

    def change(key: Key, x: Any) -> Spectrograms:
        if longest > x.shape[1]:
            raise ValueError(f"longest={longest}: the spectrograms have {x.shape[1]} frames")
        later = jax.random.randint(key, (len(x), 1), 0, longest + 1)
        source = (jnp.arange(x.shape[1])[None] - later)[:, :, None]
        return jnp.where(source >= 0, jnp.take_along_axis(x, jnp.maximum(source, 0), 1), _silence(x))

    return _augment("shift", change)


def _between(x: Any, low: Any, rest: Any, silence: Array, axis: int) -> Array:
    """Interpolates between the numbers at `low` [batch, n] of an axis and the next ones; silence if there are none."""
    last, other = x.shape[axis] - 1, 3 - axis
    at = jnp.expand_dims(low, other)
    rest = jnp.expand_dims(rest, other).astype(x.dtype)
    left, right = (
        jnp.where(i > last, silence, jnp.take_along_axis(x, jnp.clip(i, 0, last), axis)) for i in (at, at + 1)
    )
    return left + rest * (right - left)


def _silence(x: Any) -> Array:
    return x.min((1, 2), keepdims=True)


def _augment(name: str, change: Any) -> Augment:
    def apply(key: Key, x: Any) -> Array:
        if getattr(x, "ndim", 0) != 3:
            raise ValueError(f"{name}: spectrograms of shape {jnp.shape(x)}: give [batch, frames, bands]")
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name}: spectrograms are {x.dtype}: give floats")
        return change(key, x)

    return apply

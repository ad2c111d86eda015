"""Augmentation of sounds as waves: `(key, x) -> x` on the device, as in `jtl.data.augment`.

`x` is an array [batch, samples], or the dict that `jtl.preprocess.audio.inputs` returns, {"wave": [batch, samples],
"mask": bool [batch, samples]}. The mask is true where there is sound; other samples are padding and stay 0. Labels are
of whole sounds or are sequences: labels of moments do not move with the sound. For spectrograms see
`jtl.data.spectrograms`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl import checked
from jtl.data.augment import Augment
from jtl.typing import Key

Wave = Float[Array, "batch samples"]
Mask = Bool[Array, "batch samples"]


def speed(slowest: float = 0.9, fastest: float = 1.1) -> Augment:
    """Plays each sound at a factor α of its speed, uniform in [slowest, fastest]: `x'[i] = x[α i]`, interpolated.

    Pitch and formants rise with α, and the sound becomes 1/α as long. The number of samples stays: the end of a sound
    that no longer fits is cut, and the mask covers what is left. The interpolation is linear.

    Raises:
      ValueError: for factors outside (0, inf), or `slowest` above `fastest`; while tracing, for another shape.
      TypeError: while tracing, for waves that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import waves
      >>> waves.speed(2.0, 2.0)(jax.random.key(0), jnp.arange(6.0)[None]).tolist()
      [[0.0, 2.0, 4.0, 0.0, 0.0, 0.0]]

    Ko et al., Audio augmentation for speech recognition, Interspeech 2015 (factors of 0.9, 1.0 and 1.1).
    """
    checked.positive(slowest=slowest, fastest=fastest)
    checked.ordered(slowest=slowest, fastest=fastest)

    def change(key: Key, wave: Wave, mask: Mask) -> tuple[Wave, Mask]:
        drawn = jax.random.uniform(key, (len(wave), 1), minval=slowest, maxval=fastest)
        place, rest = stretched(drawn, wave.shape[1])
        at, after = (jnp.clip(i, 0, wave.shape[1] - 1) for i in (place, place + 1))
        left, right = (jnp.take_along_axis(wave, i, 1) for i in (at, after))
        heard = jnp.take_along_axis(mask, at, 1) & (place < wave.shape[1])
        return left + rest.astype(wave.dtype) * (right - left), heard

    return _augment("speed", change)


def shift(longest: int) -> Augment:
    """Delays each sound by a number of samples that is uniform in 0 … `longest`, and cuts what no longer fits.

    The zeros before the sound count as sound in the mask, because networks expect it to begin at the first sample.

    Raises:
      ValueError: for a number that is not an integer of at least 1; while tracing, for another shape, or a delay that
        may be longer than the row.
      TypeError: while tracing, for waves that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import waves
      >>> waves.shift(2)(jax.random.key(0), jnp.ones((2, 5))).shape
      (2, 5)
    """
    checked.whole(1, longest=longest)

    def change(key: Key, wave: Wave, mask: Mask) -> tuple[Wave, Mask]:
        samples = wave.shape[1]
        if longest > samples:
            raise ValueError(f"longest={longest}: the waves have {samples} samples")
        source = jnp.arange(samples)[None] - jax.random.randint(key, (len(wave), 1), 0, longest + 1)
        at = jnp.maximum(source, 0)
        moved = jnp.where(source >= 0, jnp.take_along_axis(wave, at, 1), 0)
        return moved, jnp.take_along_axis(mask, at, 1)

    return _augment("shift", change)


def gain(decibels: float) -> Augment:
    """Multiplies each sound by `10^(g/20)`, with g uniform in [-decibels, decibels].

    A network whose preprocessing normalises each sound (`Waves(normalise=True)`) was not trained on other volumes.

    Raises:
      ValueError: for a number that is not positive and finite; while tracing, for another shape.
      TypeError: while tracing, for waves that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import waves
      >>> waves.gain(6.0)(jax.random.key(0), jnp.ones((2, 5))).shape
      (2, 5)
    """
    checked.positive(decibels=decibels)

    def change(key: Key, wave: Wave, mask: Mask) -> tuple[Wave, Mask]:
        drawn = jax.random.uniform(key, (len(wave), 1), minval=-decibels, maxval=decibels)
        return wave * (10 ** (drawn / 20)).astype(wave.dtype), mask

    return _augment("gain", change)


def noise(lowest: float, highest: float) -> Augment:
    """Adds white Gaussian noise at a signal-to-noise ratio uniform in [lowest, highest] decibels.

    The ratio is that of the sound's mean square, over its samples that are not padding, to the noise's variance.

    Raises:
      ValueError: for ratios that are not finite, or `lowest` above `highest`; while tracing, for another shape.
      TypeError: while tracing, for waves that are not floating.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data import waves
      >>> waves.noise(10, 30)(jax.random.key(0), jnp.ones((2, 5))).shape
      (2, 5)
    """
    checked.within("(-inf, inf)", lowest=lowest, highest=highest)
    checked.ordered(lowest=lowest, highest=highest)

    def change(key: Key, wave: Wave, mask: Mask) -> tuple[Wave, Mask]:
        of_ratio, of_noise = jax.random.split(key)
        ratio = jax.random.uniform(of_ratio, (len(wave), 1), minval=lowest, maxval=highest)
        power = (jnp.where(mask, wave, 0).astype(jnp.float32) ** 2).sum(1, keepdims=True)
        power = power / jnp.maximum(mask.sum(1, keepdims=True), 1)
        drawn = jax.random.normal(of_noise, wave.shape) * jnp.sqrt(power * 10 ** (-ratio / 10))
        return wave + drawn.astype(wave.dtype), mask

    return _augment("noise", change)


def stretched(factor: Float[Array, "batch 1"], n: int) -> tuple[Any, Any]:
    """The whole part and the rest of `factor · i` for i = 0 … n - 1, exact for long rows.

    The product is `i + (factor - 1) i`, whose second part is small, so float32 keeps the rest.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.data.waves import stretched
      >>> place, rest = stretched(jnp.array([[1.25]]), 4)
      >>> place.tolist(), rest.tolist()
      ([[0, 1, 2, 3]], [[0.0, 0.25, 0.5, 0.75]])
    """
    i = jnp.arange(n)[None]
    more = (factor - 1) * i
    return i + jnp.floor(more).astype(jnp.int32), more - jnp.floor(more)


def _augment(name: str, change: Callable[[Key, Any, Any], tuple[Any, Any]]) -> Augment:
    """`change(key, wave, mask)` of an array or of a dict with a mask; padding stays 0."""

    def apply(key: Key, x: Any) -> Any:
        given = isinstance(x, Mapping)
        if given and set(x) != {"wave", "mask"}:
            raise ValueError(f"{name}: the sounds are a dict of {sorted(x)}, not of 'mask' and 'wave'")
        wave = jnp.asarray(x["wave"] if given else x)
        if wave.ndim != 2:
            raise ValueError(f"{name}: waves of shape {wave.shape}: give [batch, samples]")
        if not jnp.issubdtype(wave.dtype, jnp.floating):
            raise TypeError(f"{name}: waves are {wave.dtype}: give floats, as jtl.preprocess.audio.read returns them")
        mask = jnp.asarray(x["mask"], bool) if given else jnp.ones(wave.shape, bool)
        wave, mask = change(key, wave, mask)
        wave = jnp.where(mask, wave, 0)
        return {"wave": wave, "mask": mask} if given else wave

    return apply

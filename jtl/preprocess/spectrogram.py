"""Log-mel spectrograms. Pure NumPy."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

HIGHEST = 8000.0
"""The upper end of the bands in hertz, as in Whisper; half the sampling rate if that is less."""


def log_mel(
    wave: Float32[np.ndarray, "_samples"], *, rate: int = 16000, mels: int = 80, window: int = 400, hop: int = 160
) -> Float32[np.ndarray, "_frames _mels"]:
    """Computes Whisper's log-mel spectrogram, `(max(log₁₀ max(E, 10⁻¹⁰), m − 8) + 4) / 4`, m the largest logarithm.

    E are the energies in triangular bands (`mel_filters`) of Hann windows, which move by `hop` over the sound, extended
    by its mirror images at both ends. The result equals that of transformers' WhisperFeatureExtractor.

    Args:
      wave: at least `hop` samples.
      rate: samples per second.
      mels: the number of bands.
      window: the length of the window in samples.
      hop: samples from one frame to the next; there are `samples // hop` frames.

    Raises:
      ValueError: for a sound without a single frame.

    Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, arXiv 2212.04356.
    """
    if len(wave) < max(hop, 2):
        raise ValueError(f"a sound of {len(wave)} samples: one frame takes hop={hop}")
    ends = np.pad(wave.astype(np.float64), window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(ends, window)[::hop][: len(wave) // hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    found = np.log10(np.maximum(power @ mel_filters(mels, rate, window), 1e-10))
    return ((np.maximum(found, found.max() - 8) + 4) / 4).astype(np.float32)


@lru_cache(maxsize=8)
def mel_filters(mels: int, rate: int, window: int) -> Float64[np.ndarray, "_frequencies _mels"]:
    """Returns triangles of area 1 with corners spaced evenly on Slaney's scale, linear to 1 kHz and logarithmic above.

    Args:
      mels: the number of bands.
      rate: samples per second.
      window: samples of the Fourier transform.

    Slaney, Auditory Toolbox, 1998.
    """
    corners = hertz_of(band_corners(mels, rate))
    bins = np.linspace(0, rate // 2, window // 2 + 1)[:, None]
    up = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    down = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    filters = np.maximum(0, np.minimum(up, down)) * (2 / (corners[2:] - corners[:-2]))
    filters.flags.writeable = False  # the cache returns it again
    return filters


_KNEE, _STEP = 1000.0, 27 / np.log(6.4)  # hertz; mels per factor of e above the knee, which is at 15 mels


def mel_of(hertz: Any, xp: Any = np) -> Any:
    """Returns the place on Slaney's scale, `3 h / 200` up to 1 kHz and `15 + 27 ln(h / 1000) / ln 6.4` above.

    Args:
      hertz: any shape.
      xp: the module that computes, `numpy` or `jax.numpy`.
    """
    return xp.where(hertz < _KNEE, 3 * hertz / 200, 15 + xp.log(xp.maximum(hertz, _KNEE) / _KNEE) * _STEP)


def hertz_of(mel: np.ndarray) -> np.ndarray:
    """Returns the frequencies of places on Slaney's scale: the inverse of `mel_of`."""
    return np.where(mel < 15, 200 * mel / 3, _KNEE * np.exp((mel - 15) / _STEP))


def band_corners(mels: int, rate: int) -> Float64[np.ndarray, "_corners"]:
    """Returns the mels + 2 corners of the bands in mels; band k lies around corner k + 1.

    Args:
      mels: the number of bands.
      rate: samples per second.
    """
    return np.linspace(0, float(mel_of(min(HIGHEST, rate / 2))), mels + 2)

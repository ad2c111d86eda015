"""Augmentations of spectrograms against the spectrogram of the changed sound, NumPy, and their laws."""

import jax
import numpy as np
import pytest
from scipy.signal import resample_poly

from jtl.data import spectrograms
from jtl.preprocess.spectrogram import log_mel

RATE = 16000


@pytest.fixture(scope="module")
def sound():
    """Seven rising and fading tones in weak noise."""
    t, noise = np.arange(RATE) / RATE, np.random.default_rng(0).normal(0, 1e-4, RATE)
    tones = [np.sin(2 * np.pi * f * t * (1 + 0.1 * t)) / (i + 1) for i, f in enumerate((220, 440, 880, 1500, 2500))]
    return (sum(tones) * np.exp(-3 * t) + noise).astype(np.float32)


@pytest.mark.parametrize(("up", "down"), [(10, 9), (10, 11), (4, 5)])
def test_speed_is_that_of_the_resampled_sound(key, sound, up, down):
    factor, frames = down / up, int(95 * min(1, up / down))
    played = np.asarray(resample_poly(sound, up, down), np.float32)[:RATE]
    expected = log_mel(np.pad(played, (0, RATE - len(played))))[:frames]
    plain = log_mel(sound)
    found = np.asarray(jax.jit(spectrograms.speed(RATE, factor, factor))(key, plain[None]))[0, :frames]
    wrong, before = np.abs(found - expected).mean(), np.abs(plain[:frames] - expected).mean()
    assert wrong < before / 4


def test_speed_interpolates_along_time_and_mels(key):
    x = np.random.default_rng(1).normal(size=(1, 12, 20)).astype(np.float32)

    def mel(hertz):  # Slaney's scale
        return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))

    grid = np.linspace(0, 8000, 800_001)
    for factor in (0.8, 1.25):
        corners = np.linspace(0, mel(np.float64(4000)), 22)
        hertz = np.interp(corners[1:-1], mel(grid), grid)
        place = mel(hertz / factor) / corners[1] - 1
        bands = np.stack([np.interp(place, np.arange(21), np.append(row, x.min())) for row in x[0]])
        at = np.arange(12) * factor
        ended = np.vstack([bands, np.full((1, 20), x.min())])
        expected = np.stack([np.interp(at, np.arange(13), column) for column in ended.T], 1)
        found = spectrograms.speed(8000, factor, factor)(key, x)
        np.testing.assert_allclose(found[0], expected, atol=2e-3)
    np.testing.assert_allclose(spectrograms.speed(8000, 1.0, 1.0)(key, x), x, atol=1e-4)


def test_a_shift_delays_uniformly_by_silence(key):
    x = np.tile(np.arange(5.0, 17.0, dtype=np.float32).reshape(1, 6, 2), (3000, 1, 1))
    found = np.asarray(jax.jit(spectrograms.shift(3))(key, x))
    later = (found[:, :, 1] != 5).argmax(1)
    np.testing.assert_allclose(np.bincount(later) / 3000, 0.25, atol=5 * (0.25 * 0.75 / 3000) ** 0.5)
    for delay in range(4):
        row = int((later == delay).argmax())
        np.testing.assert_array_equal(found[row, delay:], x[0, : 6 - delay])
        assert (found[row, :delay] == 5).all()


def test_rows_have_draws_of_their_own(key):
    x = np.tile(np.random.default_rng(2).normal(size=(1, 12, 8)).astype(np.float32), (2, 1, 1))
    found = np.asarray(spectrograms.speed(8000)(key, x))
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, x: spectrograms.speed(0), ValueError, "rate=0"),
        (lambda k, x: spectrograms.speed(8000, 1.2, 0.9), ValueError, "slowest=1.2 is above fastest=0.9"),
        (lambda k, x: spectrograms.shift(7)(k, x), ValueError, "longest=7: the spectrograms have 6 frames"),
        (lambda k, x: spectrograms.speed(8000)(k, x[0]), ValueError, r"speed: spectrograms of shape \(6, 4\)"),
        (lambda k, x: spectrograms.speed(8000)(k, x.astype(int)), TypeError, "spectrograms are int"),
    ],
)
def test_bad_input_raises(key, call, error, message):
    with pytest.raises(error, match=message):
        call(key, np.ones((2, 6, 4), np.float32))

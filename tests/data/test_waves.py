"""Augmentations of waves against NumPy and SciPy, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data import augment, waves

LENGTHS = np.array([40, 25, 1, 33])


@pytest.fixture(scope="module")
def sounds():
    mask = np.arange(40)[None] < LENGTHS[:, None]
    wave = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)
    return {"wave": np.where(mask, wave, 0), "mask": mask}


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_speed_reads_the_sound_between_its_samples(key, sounds, factor):
    found = jax.jit(waves.speed(factor, factor))(key, sounds)
    at = np.arange(40) * np.float64(np.float32(factor))
    for row in range(4):
        n = LENGTHS[row]
        there = np.floor(at) < n
        expected = np.interp(at, np.arange(n + 1), np.append(sounds["wave"][row, :n], 0)[: n + 1])
        if n == 40:  # behind the row's end there is nothing to interpolate with
            expected = np.interp(at, np.arange(n), sounds["wave"][row])
        np.testing.assert_array_equal(found["mask"][row], there)
        np.testing.assert_allclose(found["wave"][row], np.where(there, expected, 0), atol=1e-5)


def test_a_sine_becomes_higher_by_the_factor(key):
    t = np.arange(8000) / 8000
    sped = waves.speed(1.2, 1.2)(key, np.sin(2 * np.pi * 100 * t, dtype=np.float32)[None])
    whole = np.asarray(sped[0, : int(8000 / 1.2)])
    np.testing.assert_allclose(whole, np.sin(2 * np.pi * 120 * t[: len(whole)]), atol=2e-3)


def test_places_in_a_long_row_are_exact():
    factor = jnp.float32(1.1)
    place, rest = waves.stretched(factor.reshape(1, 1), 480_000)
    exact = np.arange(480_000) * np.float64(factor)
    np.testing.assert_allclose(np.asarray(place[0], np.float64) + np.asarray(rest[0], np.float64), exact, atol=4e-3)


def test_a_shift_delays_uniformly_and_keeps_what_fits(key):
    wave = np.arange(1, 7, dtype=np.float32)
    mask = np.arange(6) < 4
    rows = {"wave": np.tile(np.where(mask, wave, 0), (3000, 1)), "mask": np.tile(mask, (3000, 1))}
    found = jax.tree.map(np.asarray, jax.jit(waves.shift(3))(key, rows))
    later = (found["wave"] == 0).argmin(1)
    np.testing.assert_allclose(np.bincount(later) / 3000, 0.25, atol=5 * (0.25 * 0.75 / 3000) ** 0.5)
    for delay in range(4):
        row = int((later == delay).argmax())
        expected = np.concatenate([np.zeros(delay), np.where(mask, wave, 0)])[:6]
        np.testing.assert_array_equal(found["wave"][row], expected)
        np.testing.assert_array_equal(found["mask"][row], np.arange(6) < 4 + delay)


def test_gain_and_noise_have_the_decibels_that_are_asked_for(key):
    wave = np.random.default_rng(1).normal(0, 3, (2000, 50)).astype(np.float32)
    louder = 20 * np.log10(np.asarray(waves.gain(6.0)(key, wave))[:, 0] / wave[:, 0])
    np.testing.assert_allclose(np.quantile(louder, [0, 0.25, 0.5, 0.75, 1]), [-6, -3, 0, 3, 6], atol=0.5)
    mask = np.arange(50) < 30
    rows = {"wave": np.where(mask, wave, 0), "mask": np.tile(mask, (2000, 1))}
    found = waves.noise(10.0, 10.0)(key, rows)
    assert not np.asarray(found["wave"])[:, 30:].any()
    added = (np.asarray(found["wave"]) - rows["wave"])[:, :30]
    share = (added**2).sum() / (rows["wave"] ** 2).sum()
    np.testing.assert_allclose(share, 0.1, rtol=5 * (2 / (2000 * 30)) ** 0.5)


def test_arrays_and_dicts_are_changed_alike_and_compose(key, sounds):
    moved = augment.compose(waves.speed(), waves.shift(5), waves.gain(3), waves.noise(20, 30))
    whole = {"wave": sounds["wave"], "mask": np.ones_like(sounds["mask"])}
    alone, among = moved(key, sounds["wave"]), moved(key, whole)["wave"]
    assert alone.shape == (4, 40)
    assert np.isfinite(alone).all()
    # A speed above 1 leaves padding at the end, of which the array knows nothing.
    there = np.asarray(moved(key, whole)["mask"])
    np.testing.assert_allclose(np.where(there, alone, 0)[:, :20], np.asarray(among)[:, :20], atol=0.2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, x: waves.speed(1.2, 0.9), ValueError, "slowest=1.2 is above fastest=0.9"),
        (lambda k, x: waves.noise(3, 1), ValueError, "lowest=3 is above highest=1"),
        (lambda k, x: waves.shift(41)(k, x), ValueError, "longest=41: the waves have 40 samples"),
        (lambda k, x: waves.gain(1)(k, {**x, "z": 1}), ValueError, r"a dict of \['mask', 'wave', 'z'\]"),
        (lambda k, x: waves.speed()(k, x["wave"][0]), ValueError, r"speed: waves of shape \(40,\)"),
        (lambda k, x: waves.speed()(k, np.ones((2, 9), np.int16)), TypeError, "waves are int16"),
    ],
)
def test_bad_input_raises(key, sounds, call, error, message):
    with pytest.raises(error, match=message):
        call(key, sounds)

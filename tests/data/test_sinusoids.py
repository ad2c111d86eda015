"""Sinusoid tasks: each is one sinusoid within the stated ranges, found from its points by least squares."""

import jax
import numpy as np
import pytest

from jtl import data


def test_every_task_is_one_sinusoid_in_range():
    batch = jax.device_get(data.sinusoids(shot=6, query=9, tasks=1000)[0])
    x, y = (np.concatenate([batch[half][n][..., 0] for half in ("support", "query")], 1) for n in ("x", "y"))
    assert x.shape == (1000, 15)
    assert np.abs(x).max() <= 5
    found = []
    for xs, ys in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        (c, s), *_ = np.linalg.lstsq(np.stack([np.sin(xs), np.cos(xs)], 1), ys, rcond=None)  # a cos p, −a sin p
        np.testing.assert_allclose(c * np.sin(xs) + s * np.cos(xs), ys, atol=1e-5)
        found.append((np.hypot(c, s), np.arctan2(-s, c)))
    for values, low, high in zip(np.transpose(found), (0.1, 0.0), (5.0, np.pi), strict=True):
        assert low - 1e-4 < values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() < high + 1e-4
        spread = (high - low) / 12**0.5 / 1000**0.5
        assert abs(values.mean() - (low + high) / 2) < 5 * spread
    assert abs(x.mean()) < 5 * 10 / 12**0.5 / 15000**0.5


def test_steps_and_seeds_differ():
    first, again, later, other = (
        np.asarray(data.sinusoids(shot=1, query=1, tasks=2, seed=seed)[step]["query"]["x"])
        for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert (first == again).all()
    assert (first != later).any()
    assert (first != other).any()
    with pytest.raises(ValueError, match="shot=0"):
        data.sinusoids(shot=0, query=1, tasks=1)

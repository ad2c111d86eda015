"""The benchmarks of meta-learning run, and their tables are made from what they find."""

import numpy as np
import pytest

from benchmarks import episodes, sinusoids, tables


def test_training_on_sinusoids_makes_a_step_useful():
    """Of three thousand iterations: on new tasks the error after one inner step is well below that before it."""
    earlier, after = sinusoids.train(3000, tests=100)
    assert earlier.shape == after.shape == (100, 11)
    assert not np.array_equal(earlier, after)
    assert after[:, 1].mean() < 0.7 * after[:, 0].mean()


def test_the_table_of_sinusoids_tells_what_a_task_that_diverges_does():
    """999 tasks at 0.1 and one at 200,000: the mean is 200, without it 0.1, which the median seed's ratio is not of."""
    errors = np.full((1000, 11), 0.1)
    errors[7, 10] = 2e5
    fine = np.full((1000, 11), 0.098)
    found = sinusoids.rows([(fine, errors), (fine, fine), (fine, fine)])
    last = found[-1]
    assert last["diverged"] == [1, 0, 0]
    np.testing.assert_allclose(last["each"], [200.0999, 0.098, 0.098])
    np.testing.assert_allclose(last["trimmed"], [0.1, 0.098, 0.098])
    where = {"command": "", "device": "", "cores": 2, "jax": "", "python": "", "date": "2026-01-01", "load": [0]}
    page = tables.render({"benchmark": "sinusoids", "environment": where, "rows": found})
    assert "| 200.100, 0.098, 0.098 | 1.00 " in page


def test_episodes_are_counted_by_tasks(monkeypatch):
    """At a clock that goes on by one second a reading, a call of four tasks takes one: four episodes a second."""
    clock = iter(range(100))
    monkeypatch.setattr(episodes.time, "perf_counter", lambda: float(next(clock)))
    for name, make in episodes.datasets(tasks=4).items():
        assert episodes.rate(make(), calls=3) == 4, name


def test_seeds_of_two_runs_stand_side_by_side():
    draw = np.random.default_rng(0)
    runs = [(draw.random((20, 11)), draw.random((20, 11))) for _ in range(3)]
    found = sinusoids.joined(sinusoids.rows(runs[:2]), sinusoids.rows(runs[2:]), 2)
    assert found == sinusoids.rows(runs)
    assert sinusoids.joined(sinusoids.rows(runs[:2]), sinusoids.rows(runs[1:]), 1) == sinusoids.rows(runs)
    with pytest.raises(ValueError, match="first=3: the file has 2 seeds"):
        sinusoids.joined(sinusoids.rows(runs[:2]), sinusoids.rows(runs), 3)
    fewer = [(a[:9], b[:9]) for a, b in runs]
    with pytest.raises(ValueError, match="20 tasks, and a new seed 9 tasks"):
        sinusoids.joined(sinusoids.rows(runs[:2]), sinusoids.rows(fewer), 2)

"""The benchmarks of meta-learning run, and their tables are made from what they find."""

from benchmarks import episodes, sinusoids, tables


def test_training_on_sinusoids_makes_a_step_useful():
    """Of a thousand iterations: on new tasks the error after one inner step is well below that before it."""
    after = sinusoids.train(1000, tests=100)
    assert after.mean.shape == (11,)
    assert after.mean[1] < 0.9 * after.mean[0]
    where = {"command": "", "device": "", "cores": 2, "jax": "", "python": "", "date": "2026-01-01", "load": [0]}
    page = tables.render({"benchmark": "sinusoids", "environment": where, "rows": sinusoids.rows(after)})
    assert f"{after.mean[10]:.3f}" in page
    assert "0.098" in page


def test_episodes_are_counted_by_tasks(monkeypatch):
    """At a clock that goes on by one second a reading, a call of four tasks takes one: four episodes a second."""
    clock = iter(range(100))
    monkeypatch.setattr(episodes.time, "perf_counter", lambda: float(next(clock)))
    for name, make in episodes.datasets(tasks=4).items():
        assert episodes.rate(make(), calls=3) == 4, name

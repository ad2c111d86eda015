"""The benchmark of episodes of sounds, on features whose answer is known, and its table."""

import jax
import numpy as np
import pytest

import jtl
from benchmarks import sound_episodes, tables


def test_episodes_are_disjoint_and_class_by_class():
    y = np.repeat(np.arange(10), 15)
    for a, b in sound_episodes.episodes(y, 5, 20, seed=0):
        assert not set(a) & set(b)
        ways = y[a].reshape(5, 5)
        assert (ways == ways[:, :1]).all()
        np.testing.assert_array_equal(y[b].reshape(5, 10), np.broadcast_to(ways[:, :1], (5, 10)))
        assert len(set(ways[:, 0])) == 5


@pytest.mark.parametrize("way", ["ProtoNet", "classifier + logistic regression", "ANIL"])
def test_classes_apart_are_told_apart(way):
    """Features of ten directions: all right, and all wrong where each class has the examples of the one before."""
    y = np.repeat(np.arange(10), 12)
    z = 3 * np.eye(10, dtype=np.float32)[y]
    start = jtl.heads.linear(5, zero_init=True).init(jax.random.key(0), z[:1])
    learned = jtl.Variables({"head": start.params}, {})
    drawn = sound_episodes.episodes(y, 1, 6, seed=0)
    assert sound_episodes.accuracy(way, learned, z, drawn, 1) == 100
    wrong = [(np.roll(a, 1), b) for a, b in drawn]
    assert sound_episodes.accuracy(way, learned, z, wrong, 1) == 0


def test_the_table_has_paired_gains():
    each = ([1, 2, 3], [50, 60, 70], [51, 61, 71], [60, 70, 83], [0, 0, 0])
    rows = [{"way": 5, "shot": 1, "head": h, "each": e} for h, e in zip(sound_episodes.WAYS, each, strict=True)]
    where = {"command": "", "device": "", "cores": 2, "jax": "", "python": "", "date": "2026-01-01", "load": [0]}
    page = tables.render({"benchmark": "sound_episodes", "environment": where, "rows": rows})
    assert "+1.0 ± 0.0" in page
    assert "+11.0 ± 4.3" in page, "gains of 10, 10 and 13, and 4.303 of Student's t"
    assert "60.0 ± 24.8" in page

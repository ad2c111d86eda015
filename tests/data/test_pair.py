"""Pairs of domains of different size."""

import numpy as np
import pytest

from jtl import data


def numbered(size, batch_size, seed=0):
    return data.arrays(np.arange(size), np.arange(size), batch_size=batch_size, seed=seed)


def test_each_domain_has_its_own_epochs():
    both = data.pair(numbered(20, 4), numbered(6, 3))
    assert len(both) == 5
    assert both.size == 20
    batches = list(both)
    assert sorted(np.concatenate([b["source"]["x"] for b in batches])) == list(range(20))
    for epoch in (0, 1):
        halves = [both[2 * epoch + i]["target"]["x"] for i in range(2)]
        assert sorted(np.concatenate(halves)) == list(range(6))
    assert (data.pair(numbered(20, 4), numbered(6, 3))[13]["target"]["x"] == both[13]["target"]["x"]).all()


def test_target_labels_only_when_asked():
    assert set(data.pair(numbered(8, 4), numbered(8, 4))[0]["target"]) == {"x", "mask"}
    batch = data.pair(numbered(8, 4), numbered(8, 4), target_labels=True)[0]["target"]
    assert (batch["y"] == batch["x"]).all()


def test_labels_of_other_classes_are_refused():
    def named(*classes):
        return data.arrays(np.zeros(4), np.zeros(4, int), batch_size=2, classes=classes)

    with pytest.raises(
        ValueError, match="label 1 is 'c' in the target and 'b' in the source: read the data with classes="
    ):
        data.pair(named("a", "b", "c"), named("a", "c"), target_labels=True)
    with pytest.raises(ValueError, match="label 1 is 'b' in the target and no class in the source"):
        data.pair(named("a"), named("a", "b"), target_labels=True)
    for fine in (named("a", "b"), named("a", "b", "c"), named("0", "1", "2")):
        data.pair(named("a", "b", "c"), fine, target_labels=True)
    data.pair(named("a", "b", "c"), named("c", "d"))  # labels that are not read tell nothing wrong


def test_equal_seeds_do_not_bind_rows_together():
    both = data.pair(numbered(64, 64), numbered(64, 64))
    batch = both[0]
    # two independent orders of 64 agree in one place on average; in 12 with probability below 1e-8
    assert (batch["source"]["x"] == batch["target"]["x"]).sum() < 12

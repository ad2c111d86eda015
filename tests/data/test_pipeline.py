"""Laws of the data set: a function of the step, every example once an epoch, the same for any process count."""

from inspect import unwrap

import numpy as np
import pytest

from jtl import data
from jtl.data.pipeline import distinct


def numbered(size, **options):
    return data.arrays(np.arange(size), np.arange(size), **options)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_example_once_an_epoch_and_padding_repeats_real_ones(shuffle):
    ds = numbered(10, batch_size=4, shuffle=shuffle, seed=3)
    assert len(ds) == 3
    assert ds.size == 10
    for epoch in range(3):
        batches = [ds[epoch * 3 + step] for step in range(3)]
        assert all(batch["x"].shape == (4,) and batch["mask"].dtype == bool for batch in batches)
        x, mask = (np.concatenate([batch[name] for batch in batches]) for name in ("x", "mask"))
        assert sorted(x[mask]) == list(range(10))
        assert mask.tolist() == [True] * 10 + [False] * 2
        assert x[10:].tolist() == x[:2].tolist()


def test_a_batch_larger_than_the_data():
    batch = numbered(3, batch_size=8, shuffle=False)[0]
    assert batch["x"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert batch["mask"].tolist() == [True] * 3 + [False] * 5


def test_drop_last_leaves_the_partial_batch_out():
    ds = numbered(10, batch_size=4, drop_last=True)
    assert len(ds) == 2
    assert all(ds[step]["mask"].all() for step in range(5))
    assert len({int(i) for step in (2, 3) for i in ds[step]["x"]}) == 8


def test_a_step_does_not_depend_on_what_was_read_before():
    read = list(numbered(50, batch_size=8, seed=1))
    fresh = numbered(50, batch_size=8, seed=1)
    for step in (6, 2, 0):
        assert (fresh[step]["x"] == read[step]["x"]).all()
    again = numbered(50, batch_size=8, seed=1)
    assert (fresh[1000]["x"] == again[1000]["x"]).all()


def test_epochs_and_seeds_shuffle_differently():
    def order(seed, epoch):
        ds = numbered(64, batch_size=64, seed=seed)
        return tuple(ds[epoch]["x"])

    # also: seed 1's first epoch is not seed 0's second
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("count", [2, 4])
def test_the_processes_rows_together_are_the_global_batch(count):
    whole = numbered(21, batch_size=8, seed=2)
    parts = [numbered(21, batch_size=8, seed=2, process_index=i, process_count=count) for i in range(count)]
    for step in (0, 2, 7):
        for name in ("x", "y", "mask"):
            together = np.concatenate([part[step][name] for part in parts])
            assert (together == whole[step][name]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 4, "seed": -1}, "seed=-1"),
        ({"batch_size": 20, "drop_last": True}, "10 examples are fewer than batch_size 20"),
        ({"batch_size": 4, "process_index": 3, "process_count": 2}, "process_index is 3"),
        ({"batch_size": 5, "process_index": 0, "process_count": 2}, "batch_size 5 does not divide by 2"),
        ({"batch_size": 4, "process_index": 0}, "together"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        numbered(10, **options)


def test_a_negative_step():
    with pytest.raises(IndexError, match="step is -1"):
        numbered(10, batch_size=4)[-1]


@pytest.mark.parametrize("classes", [2, 1.5])
def test_a_number_is_no_list_of_classes(classes):
    with pytest.raises(TypeError, match=f"classes is {classes}; give a list of names"):
        unwrap(distinct)(classes)

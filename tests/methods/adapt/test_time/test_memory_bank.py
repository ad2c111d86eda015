"""The memory against lists, one for each class."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from class_lists import Lists

from jtl.methods.adapt.test_time.memory_bank import empty, remembered

REMEMBERED = jax.jit(remembered, static_argnames=("classes", "timeliness", "certainty"))


@pytest.mark.parametrize(("capacity", "classes", "weights"), [(7, 3, (1, 1)), (6, 3, (0.2, 2)), (3, 5, (1, 0.5))])
def test_the_memory_is_that_of_lists(capacity, classes, weights):
    """First only one class, then all; over batches, and with rows that are passed over."""
    draw, lists, slots = np.random.default_rng(0), Lists(capacity, classes, weights), empty(capacity)
    kept, accepted, full = {}, set(), 0
    for batch in range(12):
        labels = draw.integers(0, 1 if batch < 2 else classes, 8)
        h = draw.uniform(0, math.log(classes), 8).astype(np.float32)
        rows = draw.random(8) < 0.8
        history = REMEMBERED(slots, labels, h, rows, classes, timeliness=weights[0], certainty=weights[1])
        numbers = {**{i: kept.get(i) for i in range(capacity)}, **{capacity + i: 8 * batch + i for i in range(8)}}
        for i in range(8):
            if rows[i]:
                lists.add(int(labels[i]), float(h[i]), 8 * batch + i)
            label, _, age, place = (np.asarray(a[i]) for a in history)
            there = np.flatnonzero(label >= 0)
            assert sorted((numbers[int(place[s])], int(label[s]), int(age[s])) for s in there) == lists.content()
            accepted |= {number for number, _, _ in lists.content()}
            full = max(full, len(there))
        slots = jax.tree.map(lambda a: a[-1], history)
        kept = {s: numbers[int(slots.place[s])] for s in range(capacity)}
        slots = slots._replace(place=jnp.arange(capacity, dtype=jnp.int32))
    assert full == capacity
    assert capacity < len(accepted) < 12 * 8 * 0.7  # some rows were replaced, and some were left out


def test_a_sorted_stream_leaves_rows_of_all_classes():
    labels = np.repeat(np.arange(4), 25)
    h = np.random.default_rng(0).uniform(0, 1, 100).astype(np.float32)
    last = jax.tree.map(lambda a: np.asarray(a[-1]), REMEMBERED(empty(8), labels, h, np.ones(100, bool), 4))
    assert np.bincount(last.label).tolist() == [2, 2, 2, 2]

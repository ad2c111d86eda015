"""Whether a batch is one process's share of the rows, whatever a data set is made of."""

import jax
import numpy as np
import pytest

from jtl import data
from jtl.data.pipeline import matched
from jtl.data.processes import processes, shared

X, Y, MASK = np.zeros((8, 3)), np.arange(8) % 2, np.ones((8, 4), bool)


def rows(**process):
    return data.arrays(X, Y, batch_size=4, classes=("a", "b"), **process)


def texts(**process):
    return data.by_length({"mask": MASK}, Y, batch_size=4, classes=("a", "b"), **process)


MADE = {
    "arrays": rows,
    "by_length": texts,
    "pair": lambda **p: data.pair(rows(**p), rows(**p)),
    "several": lambda **p: data.several(a=rows(**p), b=texts(**p)),
    "several pairs": lambda **p: data.several(a=data.pair(rows(**p), rows(**p))),
    "other names": lambda **p: matched(texts(**p), ("b", "a"), "data"),
    "episodes": lambda **p: data.episodes(np.zeros((5, 10, 3)), way=2, shot=1, query=1, tasks=4, **p),
    "sinusoids": lambda **p: data.sinusoids(shot=1, query=1, tasks=4, **p),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_data_are_shared_where_a_batch_has_fewer_rows_than_the_whole(make):
    found = {count: make(process_index=0, process_count=count) for count in (1, 2)}
    one, two = (jax.tree.map(len, found[count][0]) for count in (1, 2))
    assert jax.tree.all(jax.tree.map(lambda a, b: a == 2 * b, one, two))
    assert shared(found[2])
    assert not shared(found[1])


def test_a_process_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"process_index is 2; with 2 processes it must be in \[0, 2\)"):
        processes(2, 2)
    with pytest.raises(ValueError, match="together"):
        processes(0, None)

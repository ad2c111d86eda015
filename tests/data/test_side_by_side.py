"""Several data sets at each step."""

from typing import Any

import numpy as np
import pytest

from jtl import data


def test_each_set_goes_through_its_own_epochs():
    short = data.arrays(np.arange(4), batch_size=2, shuffle=False)
    long = data.arrays(np.arange(9), batch_size=3, shuffle=False)
    both = data.several(short=short, long=long)
    assert len(both) == 3
    found = [(batch["short"]["x"].tolist(), batch["long"]["x"].tolist()) for batch in both]
    assert found == [([0, 1], [0, 1, 2]), ([2, 3], [3, 4, 5]), ([0, 1], [6, 7, 8])]


def test_sets_of_one_seed_do_not_pair_the_same_rows():
    one = data.arrays(np.arange(50), batch_size=50, seed=3)
    batch = data.several(a=one, b=one)[0]
    assert sorted(batch["a"]["x"]) == sorted(batch["b"]["x"]) == list(range(50))
    assert (batch["a"]["x"] != batch["b"]["x"]).mean() > 0.8


def test_no_set_is_refused():
    with pytest.raises(ValueError, match="at least one data set"):
        data.several()


def named(*classes):
    return data.arrays(np.zeros((4, 2)), np.zeros(4, int), batch_size=2, classes=classes)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            ("ant", "bee", "cat"),
            ("ant", "cat"),
            r"label 1 is 'cat' in 'b' and 'bee' in 'a': .*classes=\['ant', 'bee'",
        ),
        (("ant", "cat"), ("ant", "bee", "cat"), r"label 1 is 'cat' in 'a' and 'bee' in 'b'"),
        (("ant", "bee"), ("bee", "ant"), r"label 0 is '(ant|bee)' in '(a|b)' and '(ant|bee)' in '(a|b)'"),
    ],
)
def test_a_label_of_two_classes_is_refused_with_what_would_do(a, b, message):
    """Folders give labels by their sorted names: of two sources one lacked a class, and its labels had moved up."""
    sets = {"a": named(*a), "plain": data.arrays(np.zeros((4, 2)), batch_size=2), "b": named(*b)}
    with pytest.raises(ValueError, match=message + r".*several\('own', \.\.\.\)"):
        data.several(**sets)
    assert data.several("own", **sets)[0]["b"]["y"].tolist() == [0, 0]


def test_sets_of_the_same_and_of_other_classes_are_taken():
    assert len(data.several(a=named("ant", "bee"), b=named("ant", "bee"), c=named("ant", "bee", "cat"))) == 2
    assert len(data.several(animals=named("ant", "bee"), digits=named("0", "1", "2"))) == 2
    unknown: Any = "other"
    with pytest.raises((ValueError, TypeError), match="other"):  # a checked annotation raises first
        data.several(unknown, a=named("ant", "bee"))

"""Laws of parameter trees."""

import re

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import law, words

from jtl.params import flatten, match, merge, select, split, unflatten

paths = st.lists(words, min_size=1, max_size=4).map("/".join)


@st.composite
def trees(draw):
    """Nested dicts without an empty one, whose leaves are all different."""
    flat: dict[str, np.ndarray] = {}
    for path in draw(st.lists(paths, min_size=1, max_size=8, unique=True)):
        if not any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in flat):
            flat[path] = np.full(2, len(flat))
    return unflatten(flat)


def same(a, b):
    flat, other = flatten(a), flatten(b)
    return flat.keys() == other.keys() and all(flat[path] is other[path] for path in flat)


@law(40)
@given(trees())
def test_flat_and_nested_are_one(tree):
    assert same(unflatten(flatten(tree)), tree)


@law(40)
@given(trees(), st.data())
def test_what_is_split_is_merged_again(tree, data):
    flat = flatten(tree)
    chosen = data.draw(st.sets(st.sampled_from(list(flat)), min_size=1))
    mask = select(*map(re.escape, chosen))
    ours, rest = split(tree, mask)
    assert set(flatten(ours)) == chosen
    assert set(flatten(rest)) == set(flat) - chosen
    assert same(merge(ours, rest), tree)
    assert same(merge(rest, ours), tree)
    flags = mask(tree)
    assert same(split(tree, flags)[0], ours)


@law(40)
@given(trees(), st.lists(words, min_size=1, max_size=3))
def test_the_first_rule_that_matches_a_path_decides(tree, patterns):
    flat = flatten(tree)
    table = [(f".*{re.escape(word)}.*", i) for i, word in enumerate(patterns)]
    assume(all(any(word in path for path in flat) for word in patterns))
    found = flatten(match([*table, (".*", -1)], tree))
    for path, value in found.items():
        assert value == next((i for i, word in enumerate(patterns) if word in path), -1)

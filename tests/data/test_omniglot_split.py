"""Vinyals' split of Omniglot: sizes as published, and alphabets apart."""

import numpy as np
import pytest

from jtl import data


def test_parts_have_the_published_sizes_and_alphabets(real_data):
    """Of the lists that came with Prototypical networks: sizes, counts by background set, a few names."""
    names = np.load(real_data("omniglot28.npz"))["keys"]
    split = data.omniglot_vinyals(names)
    assert [len(part) for part in split] == [1028, 172, 423]
    assert sorted(np.concatenate(split)) == list(range(1623))
    background = [sum(name.startswith("images_background") for name in names[part]) for part in split]
    assert background == [792, 172, 0]
    alphabets = [{name.split("/")[1] for name in names[part]} for part in split]
    assert [len(found) for found in alphabets] == [33, 5, 13]
    assert alphabets[0] & alphabets[2] == {"Gurmukhi"}
    assert not alphabets[1] & (alphabets[0] | alphabets[2])
    test = {name.partition("/")[2] for name in names[split.test]}
    assert {name for name in test if name.startswith("Gurmukhi")} == {f"Gurmukhi/character{i}" for i in range(42, 46)}
    back = data.omniglot_vinyals(names[::-1])
    np.testing.assert_array_equal(np.sort(1622 - back.test), split.test)


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="1623 names of 1 characters"):
        data.omniglot_vinyals(["Latin/character01"] * 1623)
    with pytest.raises(ValueError, match=r"no character of the alphabets \['Armenian', 'Bengali'"):
        data.omniglot_vinyals([f"Latin/character{i}" for i in range(1623)])

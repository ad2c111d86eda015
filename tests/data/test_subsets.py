"""Rows of a data set, and splits by a seed."""

import numpy as np
import pytest
from PIL import Image

from jtl.data.arrays import arrays
from jtl.data.balanced import balanced
from jtl.data.folder import folder
from jtl.data.pair import pair
from jtl.data.subsets import split, subset

X, Y = np.arange(40, dtype=np.float32)[:, None], np.arange(40) % 4 // 3  # 30 of class 0, 10 of class 1
DATA = arrays(X, Y, batch_size=8, classes=("a", "b"))


def rows(data):
    return np.sort(np.concatenate([b["x"][b["mask"]][:, 0] for b in data])).astype(int)


def test_a_subset_has_its_rows_in_their_order():
    part = subset(arrays(X, Y, batch_size=2, shuffle=False), [7, 3, 3])
    assert [b["x"][b["mask"]][:, 0].tolist() for b in part] == [[7, 3], [3]]
    assert [b["y"][b["mask"]].tolist() for b in part] == [[1, 1], [1]]
    assert subset(part, [1])[0]["x"][0, 0] == 3  # of a subset


def test_parts_are_disjoint_and_whole_and_each_has_its_share_of_each_class():
    parts = split(DATA, {"val": 0.2, "test": 0.1}, seed=1)
    found = {name: rows(part) for name, part in parts.items()}
    np.testing.assert_array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(40))
    counts = {name: np.bincount(Y[index], minlength=2).tolist() for name, index in found.items()}
    assert counts == {"train": [21, 7], "val": [6, 2], "test": [3, 1]}
    assert [part.shuffle for part in parts.values()] == [True, False, False]
    assert {part.classes for part in parts.values()} == {("a", "b")}


def test_a_split_is_a_function_of_labels_and_seed():
    same, other = split(arrays(X + 0.5, Y, batch_size=4), {"val": 0.2}, seed=1), split(DATA, {"val": 0.2}, seed=2)
    first = rows(split(DATA, {"val": 0.2}, seed=1)["val"])
    np.testing.assert_array_equal(first, rows(same["val"]))
    assert first.tolist() != rows(other["val"]).tolist()


def test_groups_stay_whole():
    speakers = np.array(["ann", "bob", "cas", "dan", "eve"])[np.arange(40) % 5]
    parts = split(DATA, {"val": 0.2, "test": 0.2}, groups=speakers)
    heard = [set(speakers[rows(part)]) for part in parts.values()]
    assert [len(s) for s in heard] == [3, 1, 1]
    assert len(set.union(*heard)) == 5


def test_a_folder_is_split_by_its_classes(tmp_path):
    for name, count in (("a", 6), ("b", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / name / f"{i}.png")
    parts = split(folder(tmp_path, size=4, mode="RGB", batch_size=3), {"val": 0.34})
    y = {name: np.concatenate([b["y"][b["mask"]] for b in part]) for name, part in parts.items()}
    assert {name: np.bincount(labels).tolist() for name, labels in y.items()} == {"train": [4, 2], "val": [2, 1]}


def test_what_does_not_fit_is_named():
    for wrong, message in (
        ({}, "shares={}"),
        ({"val": 0.0}, "shares"),
        ({"val": 0.6, "test": 0.5}, "shares"),
        ({"train": 0.5}, "other parts than 'train'"),
    ):
        with pytest.raises(ValueError, match=message):
            split(DATA, wrong)
    with pytest.raises(ValueError, match="label 1 has 1 examples: give at least 2, one for each of train and val"):
        split(subset(DATA, [0, 1, 3]), {"val": 0.2})
    with pytest.raises(ValueError, match="there are 1 groups"):
        split(DATA, {"val": 0.2}, groups=["x"] * 40)
    with pytest.raises(ValueError, match=r"groups of shape \(1,\): give one for each of 40 examples"):
        split(DATA, {"val": 0.2}, groups=["x"])
    with pytest.raises(ValueError, match=r"rows lie in \[-1, 3\], and there are 40"):
        subset(DATA, [-1, 3])
    with pytest.raises(ValueError, match="rows of float64"):
        subset(DATA, [0.5])
    with pytest.raises(ValueError, match="split of balanced data, which draws rows of its own: split first"):
        split(balanced(DATA, Y), {"val": 0.2})
    with pytest.raises(ValueError, match=r"label [01] is only in groups that were drawn for val"):
        split(DATA, {"val": 0.2}, groups=Y)
    with pytest.raises(ValueError, match=r"labels of shape \(1,\)"):
        split(DATA, {"val": 0.2}, labels=["x"], groups=Y)
    with pytest.raises(TypeError, match=r"split takes data of .* and this is a Pair"):
        split(pair(DATA, DATA), {"val": 0.2})

"""Arrays: what is read, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import data


def test_wide_numbers_are_read_as_narrow_ones():
    ds = data.arrays(np.ones((4, 2)), np.arange(4), batch_size=4, classes=4, shuffle=False)
    batch = ds[0]
    assert batch["x"].dtype == np.float32
    assert batch["y"].dtype == np.int32
    assert ds.classes == ("0", "1", "2", "3")


def test_a_dict_of_arrays_and_no_labels():
    ds = data.arrays({"ids": np.arange(6).reshape(3, 2), "length": np.arange(3)}, batch_size=3, shuffle=False)
    batch = ds[0]
    assert set(batch) == {"x", "mask"}
    assert batch["x"]["ids"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert batch["x"]["length"].tolist() == [0, 1, 2]
    assert ds.classes is None


def test_soft_labels_and_uint8_stay():
    ds = data.arrays(np.zeros((2, 3), np.uint8), np.eye(2), batch_size=2, classes=["cat", "dog"], shuffle=False)
    assert ds[0]["x"].dtype == np.uint8
    assert ds[0]["y"].tolist() == [[1, 0], [0, 1]]
    assert ds.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("x", "y", "classes", "error", "message"),
    [
        (np.zeros((3, 2)), np.arange(4), None, ValueError, r"differ in length: \{'x': 3, 'y': 4\}"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, None, None, ValueError, r"\"x\['a'\]\": 3"),
        ({}, None, None, ValueError, "empty dict"),
        (np.zeros((0, 2)), None, None, ValueError, "no examples"),
        (np.float32(1), None, None, ValueError, "x is a scalar"),
        (np.array([[0.0], [np.nan]]), None, None, ValueError, "x is NaN in row 1"),
        (np.array(["a"]), None, None, TypeError, "x has dtype <U1"),
        (np.zeros(2), np.array(["a", "b"]), None, TypeError, "y holds names, as"),
        (np.zeros(2), np.array([True, False]), None, TypeError, "y has dtype bool"),
        (np.zeros(2), np.array([0, 2]), 2, ValueError, r"y\[1\] is 2; labels must be \[0, 2\)"),
        (np.zeros(2), np.array([-1, 0]), None, ValueError, r"y\[0\] is -1"),
        (np.zeros(2), np.array([0, np.nan]), None, ValueError, "y is NaN in row 1"),
        (np.array([[0, 1], [0, 1 << 31]]), None, None, ValueError, "x is 2147483648, too large for 32 bits, in row 1"),
        (np.array([1 << 32, 0], np.uint64), None, None, ValueError, "x is 4294967296, too large"),
        (np.array([[0.0], [1e39]]), None, None, ValueError, r"x is 1e\+39, too large for 32 bits, in row 1"),
        (np.zeros(2), np.array([0.0, -1e39]), None, ValueError, r"y is -1e\+39, too large for 32 bits, in row 1"),
        (jnp.array([0, jnp.nan], jnp.bfloat16), None, None, ValueError, "x is NaN in row 1"),
        (np.zeros(2, [("a", float), ("b", int)]), None, None, TypeError, "x has dtype .*; it must be an array of num"),
        (np.ma.array([1, 2], mask=[False, True]), None, None, ValueError, "x has masked values"),
        (np.zeros(2), np.array([0, 1]), 0, ValueError, "classes is 0; give at least one"),
        (np.zeros(2), np.array([0, 1]), "ab", TypeError, "classes is the string 'ab'; give a list"),
        (np.zeros(2), np.array([0, 1]), ["a", "b", "a"], ValueError, "class 'a' is there 2 times"),
        (np.zeros(2), np.eye(2), 3, ValueError, "soft labels of 2 classes, and there are 3"),
    ],
)
def test_bad_arrays(x, y, classes, error, message):
    with pytest.raises(error, match=message):
        data.arrays(x, y, batch_size=2, classes=classes)


def test_labels_may_be_a_dict_with_flags_and_one_label_may_be_ignored():
    y = {"start": np.array([3, 1]), "allowed": np.array([[True, False], [True, True]]), "size": np.array([0.5, 2.0])}
    batch = data.arrays(np.zeros((2, 3)), y, batch_size=2, shuffle=False)[0]
    assert {name: (value.dtype, value.tolist()) for name, value in batch["y"].items()} == {
        "start": (np.int32, [3, 1]),
        "allowed": (bool, [[True, False], [True, True]]),
        "size": (np.float32, [0.5, 2.0]),
    }
    tags = np.array([[-100, 2], [1, -100]])
    assert data.arrays(np.zeros(2), tags, batch_size=2, shuffle=False, ignore=-100, classes=3)[0]["y"].tolist() == [
        [-100, 2],
        [1, -100],
    ]


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ({"a": np.array([0, -1])}, {}, r"y\['a'\]\[1\] is -1; labels must be 0 or more; ignore=-1 lets .* as floats"),
        (np.array([0, -1]), {"ignore": -100}, r"y\[1\] is -1; labels must be 0 or more, or -100"),
        ({"a": np.array([0, 1, 2])}, {}, r"differ in length: \{'x': 2, \"y\['a'\]\": 3\}"),
        ({"a": np.array([0, 1])}, {"classes": 2}, r"classes=2 and y of \['a'\]: classes name the labels of one array"),
        ({}, {}, r"y of \[\]"),
    ],
)
def test_bad_labels_of_several_kinds(y, options, message):
    with pytest.raises(ValueError, match=message):
        data.arrays(np.zeros(2), y, batch_size=2, **options)


def test_the_largest_of_32_bits_stay():
    largest = float(np.finfo(np.float32).max)
    x = {"i": np.array([-1 << 31, (1 << 31) - 1]), "u": np.array([0, (1 << 32) - 1], np.uint64)}
    x |= {"f": np.array([-np.inf, largest]), "b": jnp.array([-jnp.inf, 1], jnp.bfloat16)}
    ds = data.arrays(x, np.arange(2), batch_size=2, classes=np.int64(2))
    found = {"i": (1 << 31) - 1, "u": (1 << 32) - 1, "f": largest, "b": 1}
    assert {name: value.max() for name, value in ds[0]["x"].items()} == found
    assert ds[0]["x"]["b"].dtype == jnp.bfloat16
    assert ds.classes == ("0", "1")


def test_real_usps(real_data):
    with np.load(real_data("usps.npz")) as file:
        x, y = file["x_test"], file["y_test"]
    ds = data.arrays(x, y, batch_size=256, classes=10, seed=1)
    batches = list(ds)
    seen = np.concatenate([batch["y"][batch["mask"]] for batch in batches])
    assert (np.bincount(seen) == np.bincount(y)).all()
    first = batches[0]["x"][0]
    assert any((first == one).all() for one in x)


def test_labels_that_count_from_one_are_told_so():
    with pytest.raises(
        ValueError, match=r"y\[2\] is 3; labels must be \[0, 3\), for there are 3 classes; .*subtract 1"
    ):
        data.arrays(np.zeros((3, 1)), np.array([1, 2, 3]), batch_size=1, classes=3)
    with pytest.raises(ValueError, match="the largest is 7"):
        data.arrays(np.zeros((3, 1)), np.array([1, 7, 3]), batch_size=1, classes=3)


@pytest.mark.parametrize("kind", [list, np.array, lambda names: np.array(names, object)], ids=["list", "U", "object"])
def test_names_as_labels_are_places_among_the_classes(kind):
    ds = data.arrays(np.zeros(3), kind(["pos", "neg", "pos"]), batch_size=3, classes=("neg", "pos"), shuffle=False)
    assert ds[0]["y"].tolist() == [1, 0, 1]
    assert ds[0]["y"].dtype == np.int32
    with pytest.raises(
        TypeError, match=r"y holds names, as \['neg', 'pos'\], and labels are numbers: .* give classes="
    ):
        data.arrays(np.zeros(2), kind(["pos", "neg"]), batch_size=1)
    with pytest.raises(ValueError, match=r"y holds 'mid', which is none of classes=\['neg', 'pos'\]"):
        data.arrays(np.zeros(2), kind(["pos", "mid"]), batch_size=1, classes=("neg", "pos"))

"""Laws of episodes that vary: what is drawn, how often, from which classes, and what masks say."""

import re
from inspect import unwrap

import jax
import numpy as np
import pytest

from jtl import data
from jtl.data.varied_episodes import _range

SIZES = [4, 9, 6, 7, 5, 12, 8, 6]
Y = np.repeat(np.arange(8), SIZES)
X = np.arange(len(Y), dtype=np.uint8)[:, None]  # the number tells the example
GROUPS = [0, 1, 0, 1, 0, 1, 1, 0]


def make(**options):
    order = np.random.default_rng(0).permutation(len(Y))
    source = data.bank(X[order], Y[order], groups=GROUPS)
    given = {"way": (2, 4), "shot": (1, 5), "query": 3, "tasks": 200, "seed": 1, **options}
    return data.varied_episodes(source, **given)


def rows(batch):
    """Of each task the classes, shots and queries that its masks keep, and all examples shown."""
    batch = jax.device_get(batch)
    for t in range(len(batch["query"]["y"])):
        halves = [{n: v[t][batch[h]["mask"][t]] for n, v in batch[h].items()} for h in ("support", "query")]
        yield [(half["x"][:, 0], half["y"]) for half in halves]


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("within_groups", [True, False])
def test_support_and_query_are_disjoint_and_of_one_class_a_label(balanced, within_groups):
    ways, equal, crossed = set(), [], 0
    for (sx, sy), (qx, qy) in rows(make(balanced=balanced, within_groups=within_groups)[0]):
        shown = np.concatenate([sx, qx])
        assert len(set(shown)) == len(shown)
        classes = {label: set(Y[shown[np.concatenate([sy, qy]) == label]]) for label in set(qy)}
        assert all(len(found) == 1 for found in classes.values())
        chosen = [found.pop() for found in classes.values()]
        assert len(set(chosen)) == len(chosen)
        assert set(sy) == set(qy) == set(range(len(chosen)))
        assert (np.bincount(qy) == 3).all()
        shots, room = np.bincount(sy), np.array([SIZES[c] - 3 for c in chosen])
        assert ((shots >= 1) & (shots <= np.minimum(room, 5))).all()
        equal.append((shots == np.minimum(room, shots.max())).all())
        ways.add(len(chosen))
        crossed += len({GROUPS[c] for c in chosen}) > 1
    assert ways == {2, 3, 4}
    assert all(equal) == balanced
    assert (crossed == 0) == within_groups


def test_numbers_of_classes_and_shots_are_uniform():
    """Within five standard deviations, over 2,000 episodes of classes with room for all shots."""
    source = data.bank(np.zeros((80, 1)), np.repeat(np.arange(8), 10))
    ds = data.varied_episodes(source, way=(2, 4), shot=(1, 5), query=3, tasks=2000)
    support = jax.device_get(ds[0]["support"]["mask"]).reshape(2000, 4, 5)
    for found, values in ((support.any(2).sum(1), (2, 3, 4)), (support.sum(2)[:, 0], (1, 2, 3, 4, 5))):
        p = 1 / len(values)
        counts = np.array([(found == value).sum() for value in values])
        assert np.abs(counts - 2000 * p).max() < 5 * (2000 * p * (1 - p)) ** 0.5


def test_classes_and_examples_are_drawn_uniformly():
    ds = make(way=4, shot=1, query=1, tasks=4000)
    batch = jax.device_get(ds[0])
    for half in ("support", "query"):
        shown = batch[half]["x"].ravel()
        counts = np.bincount(shown, minlength=len(Y)) * np.array(SIZES)[Y]  # each class is in half of the episodes
        spread = (2000 * np.array(SIZES)[Y]) ** 0.5
        assert (np.abs(counts - 2000) < 5 * spread).all()


def test_absent_rows_are_zero_and_images_keep_their_type():
    batch = make(augment=lambda key, x: x + np.uint8(100))[0]
    for half in ("support", "query"):
        x, mask = np.asarray(batch[half]["x"]), np.asarray(batch[half]["mask"])
        assert x.dtype == np.uint8
        assert (x[~mask] == 0).all()
        assert (x[mask] >= 100).all()
        assert not mask.all()


def test_a_step_is_reproducible_and_processes_share_it():
    whole = jax.device_get(make()[7])
    jax.tree.map(np.testing.assert_array_equal, whole, jax.device_get(make()[7]))
    parts = [jax.device_get(make(process_index=i, process_count=4)[7]) for i in range(4)]
    jax.tree.map(np.testing.assert_array_equal, whole, jax.tree.map(lambda *a: np.concatenate(a), *parts))
    assert (jax.device_get(make()[8]["query"]["x"]) != whole["query"]["x"]).any()


def test_all_of_every_class_and_nothing_to_vary():
    """With the size of the bank asked for, an episode is the bank."""
    source = data.bank(X[:6], np.repeat([0, 1], 3))
    batch = jax.device_get(data.varied_episodes(source, way=2, shot=2, query=1, tasks=3)[0])
    for t in range(3):
        shown = np.concatenate([batch[half]["x"][t].ravel() for half in ("support", "query")])
        assert sorted(shown) == list(range(6))
        assert batch["support"]["mask"].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 0}, "way=0: must be an integer of at least 1, or a pair"),
        ({"shot": (3, 2)}, r"shot=\(3, 2\)"),
        ({"way": (2, 9)}, r"way is \(2, 9\), but there are never more than 8"),
        ({"way": 5, "within_groups": True}, "way is 5, but group 0 has only 4 classes"),
        ({"shot": 2}, "shot 2 \\+ query 3 exceed the 4 examples of class 0"),
        ({"shot": (1, 10)}, "no class has more than 9 left"),
        ({"tasks": 0}, "tasks=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("name", ["way", "shot"])
@pytest.mark.parametrize("bad", [(1, 2, 3), (1,), (), 2.0, (1, 2.0), True, (True, 2), "12", None, (0, 2)])
def test_what_is_no_range_is_named(name, bad):
    """Of three numbers the third was ignored; others were told late, as what they are to Python."""
    given = {"way": 2, "shot": 1, "query": 1, "tasks": 1, name: bad}
    made = object.__new__(data.varied_episodes)  # unwrapped: in tests alone the types of arguments are checked too
    with pytest.raises(ValueError, match=f"{name}={re.escape(str(bad))}: must be an integer of at least 1, or a pair"):
        unwrap(data.varied_episodes.__init__)(made, data.bank(X, Y), **given)


@pytest.mark.parametrize("name", ["query", "tasks", "steps"])
@pytest.mark.parametrize("bad", [(1, 2), 2.0, True, 0])
def test_what_is_no_whole_number_is_named(name, bad):
    given = {"way": 2, "shot": 1, "query": 1, "tasks": 1, name: bad}
    made = object.__new__(data.varied_episodes)
    with pytest.raises(ValueError, match=f"{name}={re.escape(str(bad))}: must be an integer of at least 1$"):
        unwrap(data.varied_episodes.__init__)(made, data.bank(X, Y), **given)


def test_numbers_of_numpy_are_ranges():
    found = [_range("way", given) for given in (np.int64(3), np.array(3), np.array([2, 4]), [2, 4])]
    assert found == [(3, 3), (3, 3), (2, 4), (2, 4)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, Y[:-1]), ValueError, "x has 57 examples and y the shape"),
        ((X[:0], Y[:0]), ValueError, "x has 0 examples"),
        (({"ids": X, "mask": X[:3]}, Y), ValueError, r"x\['mask'\] has 3 examples and y the shape"),
        (({}, Y), ValueError, "x is an empty dict"),
        (({"ids": X.astype(str)}, Y), TypeError, r"x\['ids'\] has dtype"),
        ((X, Y - 1), ValueError, r"y\[0\] is -1"),
        ((X, Y * 1.0), TypeError, "labels are integers"),
        ((X, Y, [0, 1]), ValueError, r"groups has the shape \(2,\); give one for each of the labels 0 to 7"),
    ],
)
def test_bad_banks(arguments, error, message):
    x, y, *groups = arguments
    with pytest.raises(error, match=message):
        data.bank(x, y, **({"groups": groups[0]} if groups else {}))


def test_a_bank_of_a_folder_holds_its_images(tmp_path):
    from PIL import Image

    for name, count in (("cat", 3), ("dog", 5)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(np.full((8, 8, 3), 10 * count + i, np.uint8)).save(tmp_path / name / f"{i}.png")
    found = data.bank_of(data.folder(tmp_path, size=8, batch_size=3))
    assert found.count.tolist() == [3, 5]
    assert found.x.shape == (8, 8, 8, 3)
    for first, count in ((0, 3), (3, 5)):
        values = found.x[first : first + count].astype(int).mean((1, 2, 3))
        assert sorted(values.round()) == [10 * count + i for i in range(count)]
    batch = data.varied_episodes(found, way=2, shot=(1, 3), query=1, tasks=2)[0]
    assert batch["query"]["x"].shape == (2, 2, 8, 8, 3)


def test_a_bank_of_single_examples_says_what_it_reads():
    """A data set as PyTorch has it gives (x, y) of one example."""
    pairs = [(np.ones(3), 0), (np.ones(3), 1)]
    with pytest.raises(TypeError, match=r"dataset\[0\] is a tuple, and bank_of reads batches .*jtl.data.bank\(x, y\)"):
        data.bank_of(pairs)
    with pytest.raises(TypeError, match=r"dataset\[0\] is a dict of \['x', 'y'\]"):
        data.bank_of([{"x": np.ones(3), "y": 0}])


def test_a_bank_of_a_part_is_refused():
    part = data.arrays(X, Y.astype(np.int32), batch_size=10, drop_last=True)
    with pytest.raises(ValueError, match="50 of the data set's 57 examples"):
        data.bank_of(part)


def test_a_dict_of_arrays_is_drawn_row_by_row():
    """Each array of an example is what an array alone would be, by the same draws; absent rows are 0 in all of them."""
    whole = {"ids": 1000 + np.concatenate([X, X], 1).astype(np.int32), "mask": np.ones((len(Y), 2), bool)}
    options = {"way": (2, 4), "shot": (1, 5), "query": 3, "tasks": 50}
    alone, both = (jax.device_get(data.varied_episodes(data.bank(x, Y), **options)[3]) for x in (X, whole))
    for half in ("support", "query"):
        there = both[half]["mask"]
        np.testing.assert_array_equal(there, alone[half]["mask"])
        for column in range(2):
            expected = np.where(there, 1000 + alone[half]["x"][..., 0].astype(int), 0)
            np.testing.assert_array_equal(both[half]["x"]["ids"][..., column], expected)
        np.testing.assert_array_equal(both[half]["x"]["mask"], np.stack([there, there], -1))
    read = data.bank_of(data.arrays(whole, Y.astype(np.int32), batch_size=10, shuffle=False))
    jax.tree.map(np.testing.assert_array_equal, read, data.bank(whole, Y))


def test_in_64_bits_episodes_have_the_same_shapes_and_laws():
    with jax.enable_x64(True):
        batch = make(way=2, shot=1)[0]
        for (sx, sy), (qx, qy) in rows(batch):
            shown = np.concatenate([sx, qx])
            assert len(set(shown)) == len(shown) == 8
            assert [len(set(Y[shown[np.concatenate([sy, qy]) == label]])) for label in (0, 1)] == [1, 1]
    shapes = [jax.tree.map(np.shape, found) for found in (batch, make(way=2, shot=1)[0])]
    assert shapes[0] == shapes[1]

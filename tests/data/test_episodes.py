"""Laws of the episodes."""

from inspect import unwrap

import jax
import numpy as np
import pytest

from jtl import data
from jtl.data.episodes import _draw, packed

X = np.arange(12 * 6).reshape(12, 6, 1)  # the number tells class (// 6) and example


def make(**options):
    return data.episodes(X, **{"way": 5, "shot": 2, "query": 3, "tasks": 8, "seed": 1, **options})


def test_classes_are_distinct_and_support_and_query_disjoint():
    ds = make()
    for step in range(10):
        batch = jax.device_get(ds[step])
        support, query = batch["support"], batch["query"]
        assert support["x"].shape == (8, 10, 1)
        assert query["x"].shape == (8, 15, 1)
        assert support["y"].dtype == np.int32
        for task in range(8):
            shown = np.concatenate([support["x"][task, :, 0], query["x"][task, :, 0]])
            labels = np.concatenate([support["y"][task], query["y"][task]])
            assert len(set(shown)) == 25
            assert len(set(zip(labels, shown // 6, strict=True))) == 5
            assert len(set(shown // 6)) == 5


def test_steps_differ_and_a_step_is_reproducible():
    ds = make()
    a, b = (np.asarray(ds[step]["query"]["x"]) for step in (3, 4))
    assert (a != b).any()
    assert (np.asarray(make()[3]["query"]["x"]) == a).all()
    assert (np.asarray(make(seed=2)[3]["query"]["x"]) != a).any()
    assert len(ds) == 100


def test_classes_are_drawn_uniformly():
    ds = make(tasks=400)
    drawn = np.asarray(ds[0]["support"]["x"])[:, ::2, 0] // 6
    counts = np.bincount(drawn.ravel(), minlength=12)
    expected, spread = 400 * 5 / 12, (400 * 5 / 12 * 7 / 12) ** 0.5
    assert np.abs(counts - expected).max() < 5 * spread  # five standard deviations


def test_in_64_bits_the_same_tasks_are_drawn():
    """Of two classes too, where 64 random bits in place of 32 would pass for one more axis."""
    options = {"way": 2, "shot": 1, "query": 1}
    batch = jax.device_get(make(**options)[0])
    with jax.enable_x64(True):
        wide = jax.device_get(make(**options)[0])
    jax.tree.map(np.testing.assert_array_equal, wide, batch)


def test_the_processes_tasks_together_are_the_global_batch():
    whole = np.asarray(make()[7]["query"]["x"])
    parts = [np.asarray(make(process_index=i, process_count=4)[7]["query"]["x"]) for i in range(4)]
    assert (np.concatenate(parts) == whole).all()


def test_it_runs_under_a_transfer_guard():
    ds = make()
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(ds[0])


def test_augment_is_applied_on_device():
    assert (make(augment=lambda key, x: x * 2)[0]["query"]["x"] == make()[0]["query"]["x"] * 2).all()


def test_rotations_make_four_classes_of_one():
    x = np.arange(3 * 3 * 3).reshape(1, 3, 3, 3)  # a single class
    batch = data.episodes(x, way=4, shot=1, query=1, tasks=2, rotations=True)[0]
    turned = {(*np.rot90(one, k).ravel(), k) for one in x[0] for k in range(4)}
    for task in np.asarray(batch["support"]["x"]):
        found = [k for one in task for *pixels, k in turned if tuple(one.ravel()) == tuple(pixels)]
        assert sorted(found) == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8], ids=["numbers", "packed bytes"])
def test_classes_of_any_size_are_drawn_from_all_of_their_own_examples(dtype):
    sizes, first = [4, 9, 3, 6], [0, 4, 13, 16]
    x = np.zeros((22, 4), dtype)
    x[:, 0] = np.arange(22)
    ds = data.episodes([*map(np.asarray, np.split(x, first[1:]))], way=3, shot=1, query=2, tasks=400)
    assert ds.size == 22
    batch = jax.device_get(ds[0])
    shown = np.concatenate([batch["support"]["x"][..., :1, 0], batch["query"]["x"][..., :2, 0]], 1)
    assert (np.diff(np.sort(shown), axis=1) > 0).all()  # support and query are disjoint
    parts = [batch[part]["x"].reshape(400, 3, -1, 4) for part in ("support", "query")]
    of_class = np.searchsorted(first, np.concatenate(parts, 2)[..., 0], side="right") - 1
    assert (of_class == of_class[..., :1]).all()
    counts = np.bincount(np.concatenate([one[..., 0].ravel() for one in parts]), minlength=22)
    for c, size in enumerate(sizes):
        own = counts[first[c] : first[c] + size]
        expected = 3 * 400 * 3 / 4 / size
        assert np.abs(own - expected).max() < 5 * expected**0.5, "five standard deviations, or more"


def test_classes_of_any_size_are_refused_where_one_is_too_small_or_different():
    with pytest.raises(ValueError, match="exceed the 2 examples of class 1; leave out"):
        data.episodes([X[0], X[1][:2]], way=2, shot=1, query=2, tasks=1)
    with pytest.raises(ValueError, match=r"different types or shapes: float32 \[1\], int64 \[1\]"):
        data.episodes([X[0], X[1][:3].astype(np.float32)], way=2, shot=1, query=2, tasks=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("rotations", [False, True])
def test_packed_bytes_are_the_same_episodes(dtype, rotations):
    x = np.random.default_rng(0).integers(-128, 128, (6, 5, 4, 4)).astype(dtype)
    sizes = {"way": 3, "shot": 1, "query": 2, "tasks": 4, "rotations": rotations}
    assert packed(x).shape == (6, 5, 4)
    found, expected = data.episodes(x, **sizes)[3], data.episodes(x.astype(np.float32), **sizes)[3]
    for part in ("support", "query"):
        assert found[part]["x"].dtype == dtype
        np.testing.assert_array_equal(np.asarray(found[part]["x"], np.float32), expected[part]["x"])
        np.testing.assert_array_equal(found[part]["y"], expected[part]["y"])


def test_what_is_no_whole_words_is_not_packed():
    for x in (np.zeros((2, 2, 3, 3), np.uint8), np.zeros((2, 2, 4), np.uint16), np.zeros((2, 2, 4), bool)):
        assert packed(x) is x
    x = np.arange(2 * 3 * 9, dtype=np.uint8).reshape(2, 3, 3, 3)
    assert data.episodes(x, way=2, shot=1, query=1, tasks=1)[0]["support"]["x"].shape == (1, 2, 3, 3)


def test_split_classes_are_disjoint():
    parts = data.split_classes(1623, (1100, 100, 423))
    assert [len(part) for part in parts] == [1100, 100, 423]
    assert len(set(np.concatenate(parts))) == 1623


def test_real_omniglot(real_data):
    with np.load(real_data("omniglot28.npz")) as file:
        x = file["X"]
    batch = data.episodes(x[:50], way=20, shot=1, query=5, tasks=2, rotations=True)[0]
    assert batch["query"]["x"].shape == (2, 100, 28, 28)
    seen = {np.rot90(one, k).tobytes() for one in x[:50].reshape(-1, 28, 28) for k in range(4)}
    assert all(one.tobytes() in seen for one in np.asarray(batch["query"]["x"]).reshape(-1, 28, 28))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 13}, "way is 13, but there are only 12 classes"),
        ({"shot": 4}, "shot 4 \\+ query 3 exceed the 6 examples"),
        ({"tasks": 0}, "tasks=0: must be an integer of at least 1"),
        ({"rotations": True}, "rotations need square images"),
        ({"process_index": 0}, "together"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2; with 2 processes"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("name", ["way", "shot", "query", "tasks", "steps"])
@pytest.mark.parametrize("bad", [2.0, 1.5, True, 0])
def test_what_is_no_whole_number_is_named(name, bad):
    given = {"way": 2, "shot": 1, "query": 1, "tasks": 1, name: bad}
    made = object.__new__(data.episodes)  # unwrapped: in tests alone the types of arguments are checked too
    with pytest.raises(ValueError, match=f"{name}={bad}: must be an integer of at least 1"):
        unwrap(data.episodes.__init__)(made, X, **given)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.full((3, 5, 2), np.nan), ValueError, "x is NaN in row 0"),
        (np.full((3, 5, 2), 1 << 40), ValueError, "x is 1099511627776, too large for 32 bits"),
        (np.full((3, 5, 2), 1e39), ValueError, r"x is 1e\+39, too large"),
        (np.zeros(15), ValueError, r"x has shape \(15,\); give \[classes, per_class"),
    ],
)
def test_bad_examples(x, error, message):
    with pytest.raises(error, match=message):
        unwrap(data.episodes.__init__)(object.__new__(data.episodes), x, way=2, shot=1, query=1, tasks=1)


def test_bad_steps_and_splits():
    with pytest.raises(IndexError, match="step is -1"):
        make()[-1]
    with pytest.raises(ValueError, match="8 tasks do not divide by 3"):
        make(process_index=0, process_count=3)[0]
    with pytest.raises(ValueError, match="at most 10 classes"):
        data.split_classes(10, (8, 3))


def test_the_draw_is_that_of_the_largest_words():
    """Of 30 bits of each; the floats that stand for them are neither zero nor infinite."""
    for seed in range(20):
        key = jax.random.key(seed)
        words = np.asarray(jax.random.bits(key, (3, 500))) >> 2
        found = np.asarray(_draw(key, (3, 500), 7))
        np.testing.assert_array_equal(found, np.argsort(-words.astype(np.int64), -1, kind="stable")[:, :7])

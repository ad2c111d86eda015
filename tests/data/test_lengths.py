"""Batches by length: every text once an epoch, cut to its bucket, and the same training as on uncut rows."""

from contextlib import closing
from inspect import unwrap

import jax
import made
import numpy as np
import optax
import pytest

import jtl
from jtl import data
from jtl.data.lengths import bucket, by_length, extent
from jtl.train.prefetch import feed

BERT = {
    "model_type": "bert",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,  # whose noise depends on the shape
    "attention_probs_dropout_prob": 0.0,
}
COUNTS = np.random.default_rng(0).integers(1, 65, 45)
COUNTS[:12] = np.random.default_rng(1).integers(1, 17, 12)


def tokenized(counts=COUNTS, length=64, left=False):
    place = np.arange(length)[::-1] if left else np.arange(length)
    mask = place[None] < counts[:, None]
    ids = np.where(mask, np.arange(1, len(counts) + 1)[:, None], 0).astype(np.int32)  # a text's number in each token
    return {"ids": ids, "mask": mask, "types": np.zeros_like(ids)}


def test_an_epoch_has_each_text_once_and_no_more_steps_than_uncut_rows():
    x, y = tokenized(), np.arange(len(COUNTS)) % 2
    rows = by_length(x, y, batch_size=8)
    assert len(rows) == len(jtl.data.arrays(x, y, batch_size=8)) == 6
    assert rows.lengths == (16, 32, 64)
    for epoch in (0, 1):
        batches = [rows[epoch * 6 + step] for step in range(6)]
        seen = np.concatenate([b["x"]["ids"].max(1)[b["mask"]] for b in batches])
        assert sorted(seen) == list(range(1, len(COUNTS) + 1))
        assert sorted(b["mask"].sum() for b in batches) == [5, 8, 8, 8, 8, 8]
        assert {b["x"]["ids"].shape for b in batches} == {(8, 16), (8, 32), (8, 64)}
    for batch in batches:
        number = batch["x"]["ids"].max(1) - 1
        np.testing.assert_array_equal(batch["x"]["mask"].sum(1), COUNTS[number])  # no token is cut off
        np.testing.assert_array_equal(batch["y"], y[number])


def test_the_order_is_a_function_of_seed_and_step():
    x = tokenized()
    first, again = by_length(x, batch_size=8, seed=3), by_length(x, batch_size=8, seed=3)
    for step in (13, 0, 7, 13):
        np.testing.assert_array_equal(first[step]["x"]["ids"], again[step]["x"]["ids"])
    numbers = [[first[s]["x"]["ids"].max(1).tolist() for s in range(6 * e, 6 * e + 6)] for e in (0, 1)]
    assert numbers[0] != numbers[1]
    assert [by_length(x, batch_size=8, seed=4)[s]["x"]["ids"].max(1).tolist() for s in range(6)] != numbers[0]
    widths = [first[step]["x"]["ids"].shape[1] for step in range(60)]
    assert widths != sorted(widths), "buckets are mixed"
    evaluated = [b["x"]["ids"].shape[1] for b in by_length(x, batch_size=8, shuffle=False)]
    assert evaluated == sorted(evaluated)


def test_two_processes_share_the_batch_of_one():
    x, y = tokenized(), np.arange(len(COUNTS))
    one = by_length(x, y, batch_size=8)
    two = [by_length(x, y, batch_size=8, process_index=i, process_count=2) for i in range(2)]
    for step in range(8):
        both = jax.tree.map(lambda *rows: np.concatenate(rows), *(part[step] for part in two))
        jax.tree.map(np.testing.assert_array_equal, both, one[step])


def test_padding_is_cut_on_its_side_and_tags_with_their_tokens():
    x = tokenized(np.array([3, 9]), left=True)
    tags = np.where(x["mask"], 1, -100)
    (batch,) = by_length(x, {"tags": tags, "soft": np.eye(2, 64)}, batch_size=2, shuffle=False, ignore=-100)
    assert batch["x"]["mask"].sum(1).tolist() == [3, 9]
    np.testing.assert_array_equal(batch["y"]["tags"] == 1, batch["x"]["mask"])
    assert batch["y"]["soft"].shape == (2, 64)  # no tokens, though as many
    allowed, full = {"allowed": x["mask"]}, tokenized(np.array([64, 64]))
    (batch,) = by_length(x, allowed, batch_size=2, shuffle=False)
    np.testing.assert_array_equal(batch["y"]["allowed"], batch["x"]["mask"])
    assert by_length(full, np.ones((2, 64), int), batch_size=2)[0]["y"].shape == (2, 64)  # nothing is cut
    assert extent(np.array([[0, 1, 0, 1], [0, 0, 0, 1]])) == (pytest.approx([3, 1]), True)
    assert extent(np.array([[1, 0, 1, 0], [1, 0, 0, 0]])) == (pytest.approx([3, 1]), False)
    assert [bucket(n, 100) for n in (0, 16, 17, 70, 100)] == [16, 16, 32, 100, 100]


def test_pairs_and_several_sets_do_not_bind_the_same_rows():
    rows = by_length(tokenized(np.full(45, 5)), batch_size=45)
    sets = {"pair": data.pair(rows, rows)[0], "several": data.several(source=rows, target=rows)[0]}
    for batch in sets.values():
        one, other = (batch[name]["x"]["ids"][:, 0] for name in ("source", "target"))
        assert sorted(one) == sorted(other) == list(range(1, 46))
        assert (one != other).mean() > 0.8


def test_the_order_of_the_texts_is_told():
    x = tokenized()
    rows = by_length(x, batch_size=8, shuffle=False)
    numbers = np.concatenate([batch["x"]["ids"].max(1)[batch["mask"]] for batch in rows])
    np.testing.assert_array_equal(numbers[np.argsort(rows.order)], x["ids"].max(1))
    with pytest.raises(ValueError, match="the data are shuffled"):
        _ = by_length(x, batch_size=8).order


def test_a_bank_holds_the_uncut_rows():
    x, y = tokenized(), np.arange(len(COUNTS)) % 3
    found, wanted = (data.bank_of(make(x, y, batch_size=8, shuffle=False)) for make in (by_length, data.arrays))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_rows_that_are_drawn_by_class_have_no_batches_by_length():
    with pytest.raises(TypeError, match="this is a ByLength"):
        unwrap(data.balanced)(by_length(tokenized(), batch_size=8), np.zeros(45, int))


NARROW = tokenized(np.array([3, 9]))
ONES = np.ones((2, 64), int)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ({"ids": np.zeros((2, 4), int)}, {}, r"x has \['ids'\]: give a mask"),
        ({"mask": np.ones(4, bool)}, {}, r"x\['mask'\] has shape \(4,\): give a mask"),
        (tokenized(), {"shortest": 0}, "shortest=0"),
        (tokenized(), {"y": [0] * 44}, "arrays differ in length"),
        (NARROW, {"y": ONES}, r"y of shape \(2, 64\) .* as wide as the texts: .* ignore=None at padding; .* floats"),
        (NARROW, {"y": {"many": ONES}, "ignore": -1}, r"y\['many'\] of shape .* ignore=-1 at padding"),
        (NARROW, {"y": {"allowed": ONES > 0}}, r"y\['allowed'\] .* are False at padding"),
        (tokenized(np.array([3, 9]), left=True), {"y": {"end": [60, 60]}}, r"y has \['end'\].*padded on the left"),
    ],
)
def test_what_cannot_be_is_told(x, options, message):
    with pytest.raises(ValueError, match=message):
        by_length(x, **{"batch_size": 4, **options})


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    loaded = jtl.load(made.folder(tmp_path_factory.mktemp("net"), BERT), classes=2, reads="mean", reinit=("head/.*",))
    return loaded, jtl.make_step(jtl.finetune(loaded.network), optax.adam(1e-2))


class Some(list):
    """Batches that are given."""

    lengths = (16, 32)


@pytest.mark.slow
@pytest.mark.compiling
def test_training_is_that_on_uncut_rows_and_resumes(learner, tmp_path):
    """Four steps at two lengths, with a partial batch among them; then as two calls with a checkpoint between."""
    loaded, step = learner
    x, y = tokenized(np.array([3, 5, 20, 9, 30, 12, 2])), np.array([0, 1, 0, 1, 1, 0, 1])
    rows = by_length(x, y, batch_size=4, classes=("a", "b"))
    assert {rows[s]["x"]["ids"].shape[1] for s in range(4)} == {16, 32}
    one, start = jtl.mesh(devices=jax.devices()[:1]), step.init(loaded.variables, jax.random.key(1))
    options = {"mesh": one, "progress": False}
    cut = jtl.fit(step, start, rows, steps=4, **options)
    numbers = [rows[s]["x"]["ids"].max(1) - 1 for s in range(4)]
    uncut = [{**rows[s], "x": {n: v[numbers[s]] for n, v in x.items()}} for s in range(4)]
    whole = jtl.fit(step, start, uncut, steps=4, **options)
    assert len({row["loss"] for row in cut.history}) == 4
    np.testing.assert_allclose(
        [r["loss"] for r in cut.history], [r["loss"] for r in whole.history], rtol=1e-4, atol=1e-5
    )
    for steps in (2, 4):
        saver = jtl.Checkpoints(tmp_path / "run", every=2)
        split = jtl.fit(step, start, rows, steps=steps, checkpoints=saver, **options)
    jax.tree.map(np.testing.assert_array_equal, jtl.variables(split.state), jtl.variables(cut.state))


def test_a_step_takes_several_sets_by_length():
    texts = by_length(tokenized(np.array([3, 20, 40])), batch_size=1)
    one = jtl.mesh(devices=jax.devices()[:1])
    with closing(feed(data.several(a=texts, b=data.pair(texts, texts)), range(6), one)) as batches:
        seen = {batch["a"]["x"]["ids"].shape[1] for batch in batches}
    assert seen == {16, 32, 64}


def test_a_length_that_no_bucket_has_is_refused(learner):
    loaded, step = learner
    x = tokenized(np.array([3, 20]))
    given = Some(by_length(x, [0, 1], batch_size=1, shuffle=False))
    assert [b["x"]["ids"].shape[1] for b in given] == [16, 32]
    given[1]["x"] = {name: value[:, :20] for name, value in given[1]["x"].items()}
    state, one = step.init(loaded.variables, jax.random.key(1)), jtl.mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"batch 1: 'x/ids' is int32\(1, 20\), and was int32\(1, 16\)"):
        jtl.fit(step, state, given, steps=2, mesh=one, progress=False)

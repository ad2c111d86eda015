"""Entity F1 against a plain search for spans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import metrics

TAGS = ("O", "B-x", "I-x", "B-y", "I-y")


def spans(tags):
    """(first, last, type) of the entities of a list of tags, word by word."""
    found, begun = set(), None
    for i, tag in enumerate([*tags, "O"]):
        goes_on = tag[0] == "I" and begun is not None and tag[2:] == begun[1]
        if begun is not None and not goes_on:
            found.add((begun[0], i - 1, begun[1]))
            begun = None
        if tag != "O" and not goes_on:
            begun = (i, tag[2:])
    return found


def scores(predicted, true, kept):
    pairs = [
        tuple(spans([TAGS[i] for i in row[there]]) for row in rows)
        for *rows, there in zip(predicted, true, kept, strict=True)
    ]
    right = sum(len(a & b) for a, b in pairs)
    return {
        "precision": right / max(sum(len(a) for a, _ in pairs), 1),
        "recall": right / max(sum(len(b) for _, b in pairs), 1),
        "f1": 2 * right / max(sum(len(a) + len(b) for a, b in pairs), 1),
    }


def test_the_search_itself_by_hand():
    assert spans(["B-x", "I-x", "B-x", "I-y", "O", "I-x", "I-x"]) == {
        (0, 1, "x"),
        (2, 2, "x"),
        (3, 3, "y"),
        (5, 6, "x"),
    }


@pytest.mark.parametrize("weighted", ["none", "rows", "tokens"])
def test_precision_recall_and_f1_are_those_of_a_search(weighted):
    metric = metrics.entity_f1(TAGS)
    run = jax.jit(metric.sums)
    for seed in range(20):
        draw = np.random.default_rng(seed)
        true = draw.integers(0, 5, (6, 9))
        predicted = np.where(draw.random((6, 9)) < 0.8, true, draw.integers(0, 5, (6, 9)))
        kept = {
            "none": np.ones((6, 9), bool),
            "rows": np.broadcast_to(draw.random((6, 1)) < 0.7, (6, 9)),
            "tokens": draw.random((6, 9)) < 0.7,
        }[weighted]
        weights = {"none": None, "rows": kept[:, 0], "tokens": kept}[weighted]
        labels = np.where(kept, true, -100)
        outputs = np.where(kept[..., None], np.eye(5)[predicted], np.nan)
        found = metric.finish(run(jnp.asarray(outputs), jnp.asarray(labels), weights))
        for name, value in scores(predicted, true, kept).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_sums_of_parts_add_up_to_those_of_the_whole():
    metric, draw = metrics.entity_f1(TAGS), np.random.default_rng(0)
    y, outputs = draw.integers(0, 5, (8, 7)), jnp.asarray(draw.normal(size=(8, 7, 5)))
    sums = jax.jit(lambda outputs, y: metric.sums(outputs, y, None))
    whole, parts = sums(outputs, y), [sums(outputs[s], y[s]) for s in (slice(0, 3), slice(3, 8))]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(jnp.add, *parts), whole)
    assert whole["true"].shape == (2,)


def test_nothing_to_find_is_zero_and_tags_of_another_kind_are_refused():
    metric = metrics.entity_f1(TAGS)
    found = metric.finish(metric.sums(jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), int), None))
    assert [float(value) for value in found.values()] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="tag 'S-x': give 'O', 'B-type' and 'I-type'"):
        metrics.entity_f1(("O", "S-x"))
    with pytest.raises(ValueError, match="none marks an entity"):
        metrics.entity_f1(("O",))


def test_a_nan_logit_of_a_token_that_counts_is_nan():
    metric, y = metrics.entity_f1(TAGS), np.array([[1, 2, 0]])
    logits = np.eye(5, dtype=np.float32)[y]
    logits[0, 2] = np.nan  # as if it were "O", which is right
    found = metric.finish(metric.sums(logits, y, None))
    assert np.isnan([found[name] for name in ("precision", "recall", "f1")]).all()
    assert float(metric.finish(metric.sums(logits, y, np.array([[1, 1, 0]])))["f1"]) == 1

"""Rankings of a search against scikit-learn and by their definitions."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from jtl import metrics

DRAW = np.random.default_rng(0)
SCORES = DRAW.permutation(40 * 12).reshape(40, 12) / 480
GAINS = DRAW.integers(0, 4, (40, 12)) * (DRAW.random((40, 12)) < 0.3)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_they_are_scikit_learns_and_by_definition(k):
    found = metrics.retrieval(SCORES, GAINS, k=k)
    there = GAINS.any(1)
    assert not there.all(), "a query without a relevant item is left out"
    scores, gains = SCORES[there], GAINS[there]
    np.testing.assert_allclose(found[f"ndcg@{k}"], sklearn.ndcg_score(gains, scores, k=k, ignore_ties=True))
    order = [np.argsort(-row) for row in scores]
    recall = [np.isin(np.flatnonzero(g), o[:k]).mean() for g, o in zip(gains, order, strict=True)]
    np.testing.assert_allclose(found[f"recall@{k}"], np.mean(recall))
    first = [1 + min(list(o).index(i) for i in np.flatnonzero(g)) for g, o in zip(gains, order, strict=True)]
    np.testing.assert_allclose(found["mrr"], np.mean(1 / np.array(first)))


@pytest.mark.parametrize(
    ("scores", "relevant", "k", "message"),
    [
        ([[0.1, 0.2]], [[1]], 1, r"scores of shape \(1, 2\) and relevant of \(1, 1\)"),
        ([[0.1], [np.nan]], [[1], [1]], 1, "a score is NaN in query 1"),
        ([[0.1]], [[-1]], 1, "a gain is no number of at least 0 in query 0"),
        ([[0.1]], [[0]], 1, "no query has a relevant item"),
        ([[0.1]], [[1]], 0, "k=0"),
    ],
)
def test_what_has_no_value_is_named(scores, relevant, k, message):
    with pytest.raises(ValueError, match=message):
        metrics.retrieval(scores, relevant, k=k)

"""Numbers of all rows against scikit-learn and scipy, ties included."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from jtl import metrics


@pytest.fixture(params=["distinct", "ties", "all equal"])
def rows(request):
    draw = np.random.default_rng(0)
    scores = draw.random((80, 4))
    scores = {"distinct": scores, "ties": scores.round(1), "all equal": np.ones_like(scores)}[request.param]
    return scores, draw.integers(0, 4, 80)


def test_two_classes_are_scikit_learns(rows):
    scores, y = rows
    y = (y > 1).astype(int)
    np.testing.assert_allclose(metrics.auroc(scores[:, 0], y), sklearn.roc_auc_score(y, scores[:, 0]))
    wanted = sklearn.average_precision_score(y, scores[:, 0])
    np.testing.assert_allclose(metrics.average_precision(scores[:, 0], y), wanted)


def test_several_classes_are_the_mean_over_each_against_the_rest(rows):
    scores, y = rows
    shares = scores / scores.sum(1, keepdims=True)
    wanted = sklearn.roc_auc_score(y, shares, multi_class="ovr", average="macro")
    np.testing.assert_allclose(metrics.auroc(shares, y), wanted)
    each = [sklearn.average_precision_score(y == c, scores[:, c]) for c in range(4)]
    np.testing.assert_allclose(metrics.average_precision(scores, y), np.mean(each))


def test_a_class_that_is_absent_does_not_count(rows):
    scores, y = rows
    y = np.where(y == 3, 0, y)
    each = [sklearn.roc_auc_score(y == c, scores[:, c]) for c in range(3)]
    np.testing.assert_allclose(metrics.auroc(scores, y), np.mean(each))


def test_one_column_is_of_the_positive_class(rows):
    """As of a network with one logit; its area was that of class 0."""
    scores, y = rows
    y = (y > 1).astype(np.float32)  # as `jtl.collect` gives targets of `binary_cross_entropy`
    np.testing.assert_allclose(metrics.auroc(scores[:, :1], y), sklearn.roc_auc_score(y, scores[:, 0]))
    np.testing.assert_allclose(metrics.auroc(scores[:, :1], y[:, None]), sklearn.roc_auc_score(y, scores[:, 0]))
    wanted = sklearn.average_precision_score(y, scores[:, 0])
    np.testing.assert_allclose(metrics.average_precision(scores[:, :1], y), wanted)


def test_several_labels_a_row_are_the_mean_over_them(rows):
    scores, y = rows
    many = np.stack([y > 1, y > 2, y % 2 > 0, y < 3], 1).astype(int)
    np.testing.assert_allclose(metrics.auroc(scores, many), sklearn.roc_auc_score(many, scores))
    wanted = sklearn.average_precision_score(many, scores)
    np.testing.assert_allclose(metrics.average_precision(scores, many), wanted)
    unknown = np.where(np.random.default_rng(1).random(many.shape) < 0.3, -1, many)
    each = [sklearn.roc_auc_score(t[t >= 0], s[t >= 0]) for t, s in zip(unknown.T, scores.T, strict=True)]
    np.testing.assert_allclose(metrics.auroc(scores, unknown), np.mean(each))


@pytest.mark.parametrize("digits", [0, 9])
def test_correlations_are_scipys(digits):
    draw = np.random.default_rng(0)
    a = draw.normal(size=60).round(digits)
    b = (a + draw.normal(size=60)).round(digits)
    np.testing.assert_allclose(metrics.pearson(a, b), stats.pearsonr(a, b).statistic)
    np.testing.assert_allclose(metrics.spearman(a, b), stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auroc([0.1, 0.2], [1, 1]), "no class has both"),
        (lambda: metrics.auroc([0.1, 0.2], [1, 2]), r"y\[1\] is 2: beside these scores a label is 0 or 1"),
        (lambda: metrics.auroc([0.1, 0.2], [-1, 1]), r"y\[0\] is -1: .* 0 or 1"),
        (lambda: metrics.auroc([0.1, 0.2], [0.2, 1]), r"y\[0\] is 0.2: .* 0 or 1"),
        (lambda: metrics.auroc([0.1, 0.2], [np.nan, 1]), r"y\[0\] is nan"),
        (lambda: metrics.average_precision(np.eye(3), [0, 1, 3]), r"y\[2\] is 3: .* from 0 to 2"),
        (lambda: metrics.auroc(np.eye(2), [[0, 1], [2, 0]]), r"y\[1, 0\] is 2: .* 0 or 1"),
        (lambda: metrics.auroc([[0.1], [0.2]], [1]), r"scores of shape \(2, 1\) beside y of shape \(1,\)"),
        (lambda: metrics.auroc([np.nan, 0.1, np.nan, 0.2], [1, 0, 1, 0]), "a score is NaN in 2 of 4 rows, the first 0"),
        (lambda: metrics.average_precision([[0.1, 0.2], [0.3, np.nan]], [0, 1]), "NaN in 1 of 2 rows, the first 1"),
        (lambda: metrics.spearman([1, 2, 3], [1, 2, np.nan]), "a column is NaN in 1 of 3 rows, the first 2"),
        (lambda: metrics.pearson([1, 2, np.nan], [1, 2, 3]), "a column is NaN"),
        (lambda: metrics.pearson([1, 1], [1, 2]), "one value alone"),
        (lambda: metrics.spearman([1, 2, 3], [1, 2]), r"shapes \(3,\) and \(2,\)"),
    ],
)
def test_what_has_no_value_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

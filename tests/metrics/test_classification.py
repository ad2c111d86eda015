"""Metrics against scikit-learn and torch."""

from inspect import unwrap

import numpy as np
import pytest

from jtl import metrics
from jtl.metrics import accumulate


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 6)).astype(np.float32), rng.integers(0, 6, 200), rng.random(200) < 0.7


def test_accuracy_and_top_k_are_scikit_learns(problem):
    sk = pytest.importorskip("sklearn.metrics")
    logits, y, mask = problem
    hits = metrics.accuracy(logits, y)
    assert set(np.unique(hits)) == {0.0, 1.0}
    np.testing.assert_allclose(accumulate.mean(hits).value, sk.accuracy_score(y, logits.argmax(1)), rtol=1e-6)
    np.testing.assert_allclose(
        accumulate.mean(hits, mask).value, sk.accuracy_score(y[mask], logits.argmax(1)[mask]), rtol=1e-6
    )
    for k in (1, 3, 5):
        wanted = sk.top_k_accuracy_score(y, logits, k=k)
        np.testing.assert_allclose(accumulate.mean(metrics.top_k(logits, y, k)).value, wanted, rtol=1e-6)


def test_top_1_is_accuracy_even_for_ties():
    logits, y = np.zeros((3, 4), np.float32), np.array([0, 1, 3])
    np.testing.assert_array_equal(metrics.accuracy(logits, y), [1, 0, 0])
    np.testing.assert_array_equal(metrics.top_k(logits, y, 1), [1, 0, 0])
    np.testing.assert_array_equal(metrics.top_k(logits, y, 2), [1, 1, 0])


def test_what_is_no_number_is_not_right(problem):
    """To XLA the first NaN is the largest: all of a network that broke down were class 0."""
    logits, y, _ = problem
    broken = logits.copy()
    broken[::3, 4] = np.nan
    for metric in (metrics.accuracy, metrics.top_k):
        wanted = np.array(metric(logits, y))
        wanted[::3] = np.nan
        np.testing.assert_array_equal(metric(broken, y), wanted)


def test_soft_labels_are_judged_by_their_largest_entry(problem):
    logits, y, _ = problem
    soft = 0.6 * np.eye(6, dtype=np.float32)[y] + 0.4 / 6
    for metric in (metrics.accuracy, metrics.top_k):
        np.testing.assert_array_equal(metric(logits, soft), metric(logits, y))


def test_targets_of_a_regression_have_no_accuracy(problem):
    logits, y, _ = problem
    targets = np.eye(6, dtype=np.float32)[y]
    targets[0] *= 2
    targets[1] = [2, -1, 0, 0, 0, 0]
    targets[2] /= 2
    found = metrics.accuracy(logits, targets)
    np.testing.assert_array_equal(np.isnan(found), np.arange(len(y)) < 3)
    with pytest.raises(ValueError, match="labels y are float32: numbers of classes must be integers"):
        unwrap(metrics.accuracy)(logits, y.astype(np.float32))


def test_confusion_matrix_is_scikit_learns_and_adds_up(problem):
    sk = pytest.importorskip("sklearn.metrics")
    logits, y, mask = problem
    predicted = logits.argmax(1)
    whole = metrics.confusion_matrix(predicted, y, 6)
    np.testing.assert_array_equal(whole, sk.confusion_matrix(y, predicted))
    parts = [metrics.confusion_matrix(predicted[s], y[s], 6) for s in (slice(0, 90), slice(90, 200))]
    np.testing.assert_array_equal(parts[0] + parts[1], whole)
    masked = metrics.confusion_matrix(predicted, y, 6, mask)
    np.testing.assert_array_equal(masked, sk.confusion_matrix(y[mask], predicted[mask]))


@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 100), (np.uint8, 256), (np.int8, 100), (np.int16, 300)])
def test_counts_are_those_of_wide_labels_also_for_narrow_ones(dtype, classes):
    y, predicted = np.random.default_rng(0).integers(0, 100, (2, 50)).astype(dtype)
    wanted = np.zeros((classes, classes), int)
    np.add.at(wanted, (y.astype(int), predicted.astype(int)), 1)
    np.testing.assert_array_equal(metrics.confusion_matrix(predicted, y, classes), wanted)
    halves = np.full(50, 0.5, np.float32)
    np.testing.assert_array_equal(metrics.confusion_matrix(predicted, y, classes, halves), wanted)


@pytest.mark.parametrize(
    ("predicted", "message"),
    [(np.ones(4, np.float32), "predicted has dtype float32: give integer"), (np.ones(1, int), r"\(1,\) beside y of")],
)
def test_what_is_no_prediction_of_these_examples_is_named(predicted, message):
    with pytest.raises(ValueError, match=message):
        unwrap(metrics.confusion_matrix)(predicted, np.ones(4, int), 3)


def test_classes_out_of_range_are_not_counted():
    matrix = metrics.confusion_matrix(np.array([0, 1, -1, 2, 9]), np.array([0, -1, 1, 1, 2]), 3)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 0, 1], [0, 0, 0]])


def test_macro_f1_is_scikit_learns(problem):
    sk = pytest.importorskip("sklearn.metrics")
    logits, y, _ = problem
    predicted = logits.argmax(1)
    ours = metrics.macro_f1(metrics.confusion_matrix(predicted, y, 6))
    np.testing.assert_allclose(ours, sk.f1_score(y, predicted, average="macro"), rtol=1e-6)
    # A class that is true and never predicted counts 0; one that is neither does not count.
    predicted, y = np.array([0, 0, 1]), np.array([0, 2, 1])
    ours = metrics.macro_f1(metrics.confusion_matrix(predicted, y, 5))
    np.testing.assert_allclose(ours, sk.f1_score(y, predicted, average="macro"), rtol=1e-6)


@pytest.mark.parametrize("shape", [(200, 1), (200, 6), (6,)])
def test_labels_of_another_shape_are_named(problem, shape):
    for metric in (metrics.accuracy, metrics.top_k):
        with pytest.raises(ValueError, match=rf"y of shape \({shape[0]},.*give integers of shape \(200,\)"):
            unwrap(metric)(problem[0], np.zeros(shape, np.int32))


@pytest.mark.parametrize("k", [0, 7])
def test_k_out_of_range_is_named(problem, k):
    with pytest.raises(ValueError, match=f"k={k}.*6"):
        metrics.top_k(problem[0], problem[1], k)

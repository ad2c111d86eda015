"""Rates of a confusion matrix against scikit-learn, absent classes and weights included; parts add up."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn

from jtl import metrics
from jtl.metrics.accumulate import measure
from jtl.metrics.confusion import macro_f1

CASES = {
    "all classes": ((0, 1, 2, 3), (0, 1, 2, 3)),
    "a class never true": ((0, 1, 3), (0, 1, 2, 3)),
    "a class never predicted": ((0, 1, 2, 3), (0, 1, 3)),
    "a class in neither": ((0, 1), (0, 1)),
    "one class alone": ((2,), (2,)),
}


@pytest.fixture(params=CASES)
def rows(request):
    """Logits of 4 classes, labels, weights of 0 among them, and the predictions."""
    draw, (true, predicted) = np.random.default_rng(0), CASES[request.param]
    y, guess = draw.choice(true, 60).astype(np.int32), draw.choice(predicted, 60)
    guess = np.where((draw.random(60) < 0.5) & np.isin(y, predicted), y, guess)
    weights = draw.integers(0, 4, 60).astype(np.float32)
    weights[:4] = 1
    logits = np.eye(4, dtype=np.float32)[guess] + 0.1 * draw.random((60, 4), np.float32)
    return logits, y, weights, guess


def result(metric, logits, y, weights):
    return np.asarray(jax.jit(lambda *a: measure(metric, *a).value)(logits, y, weights))


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_rates_are_scikit_learns(rows, name, average):
    logits, y, weights, guess = rows
    judge = {"precision": sklearn.precision_score, "recall": sklearn.recall_score, "f1": sklearn.f1_score}[name]
    kept = weights > 0
    wanted = judge(y[kept], guess[kept], average=average, sample_weight=weights[kept], zero_division=0)
    np.testing.assert_allclose(result(getattr(metrics, name)(4, average), logits, y, weights), wanted, rtol=1e-5)


def test_each_class_has_its_own_and_an_absent_one_has_0(rows):
    logits, y, weights, guess = rows
    wanted = sklearn.f1_score(y, guess, average=None, sample_weight=weights, labels=range(4), zero_division=0)
    np.testing.assert_allclose(result(metrics.f1(4, "none"), logits, y, weights), wanted, rtol=1e-5)


def test_other_numbers_of_the_matrix_are_scikit_learns(rows):
    logits, y, weights, guess = rows
    matrix = result(metrics.confusion(4), logits, y, weights)
    np.testing.assert_allclose(
        matrix, sklearn.confusion_matrix(y, guess, labels=range(4), sample_weight=weights), rtol=1e-6
    )
    kept = weights > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and never true, which both leave out
        balanced = sklearn.balanced_accuracy_score(y[kept], guess[kept], sample_weight=weights[kept])
    np.testing.assert_allclose(result(metrics.balanced_accuracy(4), logits, y, weights), balanced, rtol=1e-5)
    if len(set(y[kept]) | set(guess[kept])) == 1:
        assert (
            result(metrics.matthews(4), logits, y, weights) == result(metrics.cohen_kappa(4), logits, y, weights) == 0
        )
    else:
        phi = sklearn.matthews_corrcoef(y, guess, sample_weight=weights)
        np.testing.assert_allclose(result(metrics.matthews(4), logits, y, weights), phi, rtol=1e-4, atol=1e-6)
        kappa = sklearn.cohen_kappa_score(y, guess, sample_weight=weights)
        np.testing.assert_allclose(result(metrics.cohen_kappa(4), logits, y, weights), kappa, rtol=1e-4, atol=1e-6)
    assert float(macro_f1(matrix)) == pytest.approx(float(result(metrics.f1(4), logits, y, weights)), rel=1e-6)


def test_parts_add_up_and_what_has_no_weight_may_be_anything(rows):
    logits, y, weights, _ = rows
    wild, strange = logits.copy(), y.copy()
    wild[weights == 0], strange[weights == 0] = np.nan, -100
    metric = metrics.f1(4)
    parts = sum(metric.sums(wild[i::3], strange[i::3], weights[i::3]) for i in range(3))
    np.testing.assert_allclose(metric.finish(parts), result(metric, logits, y, weights), rtol=1e-6)


def test_elements_of_rows_count_with_their_rows_weight():
    logits, y = np.zeros((2, 3, 2), np.float32), np.zeros((2, 3), np.int32)
    np.testing.assert_array_equal(metrics.confusion(2).sums(logits, y, np.array([1.0, 0.0])), [[3, 0], [0, 0]])


@pytest.mark.parametrize(
    "metric",
    [
        metrics.confusion(2),
        *(metrics.f1(2, average) for average in ("micro", "macro", "weighted", "none")),
        metrics.precision(2),
        metrics.recall(2),
        metrics.balanced_accuracy(2),
        metrics.matthews(2),
        metrics.cohen_kappa(2),
        metrics.calibration_error(3),
    ],
)
def test_a_nan_logit_of_an_element_that_counts_is_nan(metric):
    y, logits = np.array([0, 0, 1]), np.full((3, 2), np.nan, np.float32)
    assert np.isnan(result(metric, logits, y, np.ones(3))).all()
    logits[1:] = 0
    assert np.isnan(result(metric, logits, y, np.ones(3))).all()
    assert np.isfinite(result(metric, logits, y, np.array([0.0, 1.0, 1.0]))).all()


def test_a_nan_logit_beside_a_label_that_is_no_class_does_not_count():
    logits = np.array([[np.nan, 0], [1, 0]], np.float32)
    np.testing.assert_array_equal(metrics.confusion(2).sums(logits, np.array([-100, 0]), None), [[1, 0], [0, 0]])


def test_equal_metrics_are_one_program():
    assert metrics.f1(4).finish == metrics.f1(4).finish
    assert metrics.f1(4).finish != metrics.f1(4, "micro").finish
    assert len({metrics.f1(4).finish, metrics.f1(4).finish}) == 1


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy", "matthews", "cohen_kappa"])
def test_nothing_counted_is_zero(name):
    assert float(getattr(metrics, name)(2).finish(np.zeros((2, 2), np.float32))) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.f1(3, "samples"), "average='samples'"),
        (lambda: metrics.confusion(0), "classes=0"),
        (lambda: metrics.f1(3).sums(jnp.zeros((2, 4)), jnp.zeros(2, int), None), r"outputs of shape \(2, 4\): this"),
        (lambda: metrics.calibration_error(0), "bins=0"),
        (lambda: metrics.r2().sums(jnp.zeros((2, 1)), jnp.zeros(2), None), r"shape \(2, 1\) beside y of shape \(2,\)"),
    ],
)
def test_what_cannot_be_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

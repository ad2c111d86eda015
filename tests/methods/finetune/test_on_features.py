import numpy as np
import pytest
from made import blobs

from jtl.methods.finetune import logistic_regression, ridge


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_logistic_regression_is_scikit_learns(penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = blobs()
    found = logistic_regression(x, y, penalty, classes=3)
    expected = linear_model.LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=2000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(found.kernel, expected.coef_.T, atol=1e-4)
    bias = np.asarray(found.bias)  # the sum of the biases is free
    np.testing.assert_allclose(bias - bias.mean(), expected.intercept_ - expected.intercept_.mean(), atol=1e-4)


def test_weights_of_examples_are_scikit_learns_and_repeat_rows():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = blobs()
    weights = np.random.default_rng(0).integers(0, 4, len(x)).astype(float)
    found = logistic_regression(x, y, 1.0, classes=3, weights=weights)
    exact = linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=2000)
    expected = exact.fit(x.astype(np.float64), y, sample_weight=weights)
    np.testing.assert_allclose(found.kernel, expected.coef_.T, atol=1e-4)
    times = weights.astype(int)
    repeated = logistic_regression(np.repeat(x, times, 0), np.repeat(y, times), 1.0, classes=3)
    np.testing.assert_allclose(found.kernel, repeated.kernel, atol=1e-5)
    assert np.abs(found.kernel - logistic_regression(x, y, 1.0, classes=3).kernel).max() > 0.01


def test_large_features_and_a_weak_penalty_do_not_cost_precision():
    """In float32 the logits are off by percents here."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = blobs(120, 30)
    x = 10 * x
    expected = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(logistic_regression(x, y, 1.0, classes=3).kernel, expected.coef_.T, atol=1e-4)


def test_the_penalty_is_the_best_one_on_validation_and_of_equal_ones_the_largest():
    x, y = blobs(30, 20)
    held = blobs(200, 20, seed=0)
    penalties = [1e-2, 1.0, 1e2, 1e4]
    right = {}
    for p in penalties:
        fitted = logistic_regression(x, y, p, classes=3)
        right[p] = float((np.asarray(fitted(held[0])).argmax(1) == held[1]).mean())
    best = max(p for p in penalties if right[p] == max(right.values()))
    assert len(set(right.values())) > 1
    assert logistic_regression(x, y, penalties, classes=3, validation=held).penalty == best
    separable = np.array([[-1.0], [1.0]], np.float32), np.array([0, 1])
    assert logistic_regression(*separable, [0.1, 1.0], classes=2, validation=separable).penalty == 1.0


def test_too_few_steps_warn():
    x, y = blobs()
    with pytest.warns(RuntimeWarning, match="gradient of"):
        logistic_regression(x, y, 0.1, classes=3, max_steps=1)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)], ids=["tall", "wide"])
def test_ridge_is_scikit_learns(shape):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x, y = rng.normal(3, 1, shape).astype(np.float32), rng.normal(size=(shape[0], 2)).astype(np.float32)
    found = ridge(x, y, 0.7)
    expected = linear_model.Ridge(alpha=0.7).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(found.kernel, expected.coef_.T, atol=1e-4)
    np.testing.assert_allclose(found(x), expected.predict(x), atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: logistic_regression(x, y + 1, classes=3), "classes=3"),
        (lambda x, y: logistic_regression(x, y, 0.0, classes=3), "penalty=0.0"),
        (lambda x, y: logistic_regression(x, y, [1.0, 2.0], classes=3), "2 penalties"),
        (lambda x, y: logistic_regression(x, y, 1.0, classes=3, validation=(x, y)), "1 penalties"),
        (lambda x, y: logistic_regression(x * np.float32(np.nan), y, classes=3), "not finite in 60"),
        (lambda x, y: logistic_regression(x, y, classes=3, weights=np.full(60, -1.0)), r"weights lie in \[-1\.0"),
        (lambda x, y: logistic_regression(x, y, classes=3, weights=np.zeros(60)), "not all 0"),
        (lambda x, y: ridge(x, x, -1.0), "penalty=-1.0"),
    ],
)
def test_bad_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(*blobs())

import jax.numpy as jnp
import numpy as np
import pytest

from jtl.methods.finetune import k_means, logistic_regression, neighbours, ridge


def _data(examples=60, width=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, examples)
    centres = rng.normal(size=(classes, width))
    return (centres[y] + rng.normal(size=(examples, width))).astype(np.float32), y


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_logistic_regression_is_scikit_learns(penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = _data()
    found = logistic_regression(x, y, penalty, classes=3)
    expected = linear_model.LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=2000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(found.kernel, expected.coef_.T, atol=1e-4)
    bias = np.asarray(found.bias)  # the sum of the biases is free
    np.testing.assert_allclose(bias - bias.mean(), expected.intercept_ - expected.intercept_.mean(), atol=1e-4)


def test_large_features_and_a_weak_penalty_do_not_cost_precision():
    """In float32 the logits are off by percents here."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = _data(120, 30)
    x = 10 * x
    expected = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(logistic_regression(x, y, 1.0, classes=3).kernel, expected.coef_.T, atol=1e-4)


def test_the_penalty_is_the_best_one_on_validation_and_of_equal_ones_the_largest():
    x, y = _data(30, 20)
    held = _data(200, 20, seed=0)
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
    x, y = _data()
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


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_neighbours_are_scikit_learns(k, shift):
    of = pytest.importorskip("sklearn.neighbors")
    (x, y), (query, _) = _data(), _data(17, seed=2)
    x, query = x + np.float32(shift), query + np.float32(shift)
    expected = of.KNeighborsClassifier(k).fit(x.astype(np.float64), y).predict_proba(query.astype(np.float64))
    np.testing.assert_allclose(neighbours(x, y, query, k, classes=3), expected, atol=1e-6)
    np.testing.assert_allclose(neighbours(x, y, query, k, classes=3, chunk=5), expected, atol=1e-6)


def test_k_means_is_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    x, _ = _data()
    found = k_means(x, x[:4])
    expected = cluster.KMeans(4, init=x[:4], n_init=1, tol=0).fit(x)
    np.testing.assert_allclose(found.centres, expected.cluster_centers_, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels_)
    np.testing.assert_allclose(found.inertia, expected.inertia_, rtol=1e-4)


def test_an_empty_centre_stays():
    found = k_means(np.zeros((3, 1), np.float32), np.array([[1.0], [9.0]], np.float32))
    np.testing.assert_array_equal(found.centres, [[0.0], [9.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: logistic_regression(x, y + 1, classes=3), "classes=3"),
        (lambda x, y: logistic_regression(x, y, 0.0, classes=3), "penalty=0.0"),
        (lambda x, y: logistic_regression(x, y, [1.0, 2.0], classes=3), "2 penalties"),
        (lambda x, y: logistic_regression(x, y, 1.0, classes=3, validation=(x, y)), "1 penalties"),
        (lambda x, y: logistic_regression(x * np.float32(np.nan), y, classes=3), "not finite in 60"),
        (lambda x, y: ridge(x, x, -1.0), "penalty=-1.0"),
        (lambda x, y: neighbours(x, y, x, 61, classes=3), "k=61"),
        (lambda x, y: neighbours(x, y, x[:, :2], 1, classes=3), "width 2"),
        (lambda x, y: neighbours(x, y, x, 1, classes=3, chunk=0), "chunk=0"),
        (lambda x, y: k_means(x, x[:2], 0), "max_steps=0"),
        (lambda x, y: k_means(x, jnp.zeros((2, 3))), "width 3"),
    ],
)
def test_bad_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(*_data())

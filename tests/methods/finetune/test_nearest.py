import jax.numpy as jnp
import numpy as np
import pytest
from made import blobs

from jtl.methods.finetune import k_means, neighbours


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_neighbours_are_scikit_learns(k, shift):
    of = pytest.importorskip("sklearn.neighbors")
    (x, y), (query, _) = blobs(), blobs(17, seed=2)
    x, query = x + np.float32(shift), query + np.float32(shift)
    expected = of.KNeighborsClassifier(k).fit(x.astype(np.float64), y).predict_proba(query.astype(np.float64))
    np.testing.assert_allclose(neighbours(x, y, query, k, classes=3), expected, atol=1e-6)
    np.testing.assert_allclose(neighbours(x, y, query, k, classes=3, chunk=5), expected, atol=1e-6)


def test_k_means_is_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    x, _ = blobs()
    found = k_means(x, x[:4])
    expected = cluster.KMeans(4, init=x[:4], n_init=1, tol=0).fit(x)
    np.testing.assert_allclose(found.centres, expected.cluster_centers_, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels_)
    np.testing.assert_allclose(found.inertia, expected.inertia_, rtol=1e-4)


def test_one_step_is_one_step():
    found = k_means(np.array([[0.0], [1.0], [9.0]], np.float32), np.array([[0.0], [0.6]], np.float32), max_steps=1)
    np.testing.assert_array_equal(found.centres, [[0.0], [5.0]])  # the next would be 0.5 and 9


def test_an_empty_centre_stays():
    found = k_means(np.zeros((3, 1), np.float32), np.array([[1.0], [9.0]], np.float32))
    np.testing.assert_array_equal(found.centres, [[0.0], [9.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: neighbours(x, y, x, 61, classes=3), "k=61"),
        (lambda x, y: neighbours(x, y, x[:, :2], 1, classes=3), "width 2"),
        (lambda x, y: neighbours(x, y, x, 1, classes=3, chunk=0), "chunk=0"),
        (lambda x, y: k_means(x, x[:2], 0), "max_steps=0"),
        (lambda x, y: k_means(x, jnp.zeros((2, 3))), "width 3"),
    ],
)
def test_bad_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(*blobs())

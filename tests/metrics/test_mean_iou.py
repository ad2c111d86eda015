"""Mean intersection over union against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import metrics


def added(*parts):
    """As an evaluation adds up the sums of its batches."""
    return jax.tree.map(lambda *leaves: sum(leaves), *parts)


def test_it_is_the_mean_of_scikit_learns_over_the_classes_that_occur():
    sk = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    y, predicted = draw.integers(0, 4, (2, 3, 5, 6))
    y[y == 2], predicted[predicted == 2] = 3, 1  # class 2 is nowhere
    weights = draw.random(y.shape) < 0.7
    metric = metrics.mean_iou(4)
    found = metric.finish(metric.sums(jnp.eye(4)[predicted], y, weights))
    wanted = sk.jaccard_score(y[weights], predicted[weights], average=None, labels=[0, 1, 3])
    np.testing.assert_allclose(found, wanted.mean(), rtol=1e-6)
    by_rows = metric.finish(metric.sums(jnp.eye(4)[predicted], y, np.array([True, False, True])))
    wanted = sk.jaccard_score(y[[0, 2]].ravel(), predicted[[0, 2]].ravel(), average=None, labels=[0, 1, 3])
    np.testing.assert_allclose(by_rows, wanted.mean(), rtol=1e-6)
    parts = [metric.sums(jnp.eye(4)[predicted[i]], y[i], weights[i]) for i in range(3)]
    np.testing.assert_allclose(metric.finish(added(*parts)), found, rtol=1e-6)


def test_a_nan_logit_of_a_pixel_that_counts_is_nan():
    metric, y = metrics.mean_iou(2), np.array([[0, 0, 1], [0, 1, 255]])
    logits = np.eye(2, dtype=np.float32)[np.minimum(y, 1)]
    wild = logits.copy()
    wild[1, 2] = np.nan  # its label is no class
    assert float(metric.finish(metric.sums(wild, y, None))) == 1
    wild[0] = np.nan
    weights = np.array([[0, 0, 0], [1, 1, 1]])
    assert float(metric.finish(metric.sums(wild, y, weights))) == 1
    assert np.isnan(metric.finish(metric.sums(wild, y, None)))  # in place of 3 right of 5
    assert np.isnan(metric.finish(added(metric.sums(wild, y, None), metric.sums(logits, y, None))))
    assert float(metric.finish((np.zeros((2, 2), int), 0))) == 0, "nothing counted"


def test_counts_are_exact_beyond_the_digits_of_float32():
    metric = metrics.mean_iou(2)
    assert all(
        leaf.dtype == jnp.int32 for leaf in jax.tree.leaves(metric.sums(jnp.eye(2)[None], np.array([[0, 1]]), None))
    )

"""Laws of mixup and CutMix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import losses
from jtl.data.mixing import cutmix, mixup, soft

BATCH, CLASSES = 512, 4


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).integers(0, CLASSES, BATCH)


def test_mixup_mixes_labels_as_it_mixes_inputs(key, labels):
    """Where the inputs are the one-hot labels themselves, both outputs are the same numbers."""
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    x, y = jax.jit(mixup(0.4, CLASSES))(key, one_hot, labels)
    np.testing.assert_allclose(x, y, atol=1e-6)
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(y.mean(0), one_hot.mean(0), atol=5 * 0.5 / BATCH**0.5)


def test_the_share_of_mixup_has_the_variance_of_its_beta(key):
    """Of Beta(α, α): 1 / (4 (2α + 1))."""
    x = np.zeros((BATCH, 1), np.float32)  # as many classes as examples: the own entry of a label is its λ
    for alpha in (0.2, 1.0):
        shares = []
        for k in range(8):
            y = mixup(alpha, BATCH)(jax.random.key(k), x, np.arange(BATCH))[1]
            shares.append(np.asarray(y)[np.arange(BATCH), np.arange(BATCH)])
        shares = np.concatenate(shares)
        shares = shares[shares < 1]  # those that met themselves
        assert abs(shares.mean() - 0.5) < 5 * 0.5 / len(shares) ** 0.5
        assert abs(((shares - 0.5) ** 2).mean() - 1 / (4 * (2 * alpha + 1))) < 5 * 0.25 / len(shares) ** 0.5


def test_mixup_of_a_regression_mixes_numbers_as_it_mixes_inputs(key):
    numbers = np.random.default_rng(0).normal(size=BATCH).astype(np.float32)
    for targets in (numbers, np.stack([numbers, 2 * numbers], 1)):
        x, y = jax.jit(mixup(0.4, None))(key, numbers[:, None], targets)
        assert y.shape == targets.shape
        np.testing.assert_allclose(x[:, 0], y if y.ndim == 1 else y[:, 1] / 2, atol=1e-6)
    with pytest.raises(ValueError, match="classes=None: give floats"):
        mixup(0.4, None)(key, numbers[:, None], np.arange(BATCH))


def test_cutmix_labels_are_the_areas(key):
    """Every image is full of its own number, so that what was pasted can be counted."""
    n, height, width = 64, 7, 10
    x = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, height, width, 2))
    mixed, y = jax.jit(cutmix(1.0, n))(key, x, np.arange(n))
    mixed, y = np.asarray(mixed), np.asarray(y)
    assert mixed.dtype == np.uint8
    touched = 0
    for i in range(n):
        np.testing.assert_allclose(
            y[i], np.bincount(mixed[i, :, :, 0].ravel(), minlength=n) / (height * width), atol=1e-6
        )
        assert (mixed[i, :, :, 0] == mixed[i, :, :, 1]).all()
        rows, columns = np.nonzero(mixed[i, :, :, 0] != i)
        if len(rows):  # a rectangle
            touched += 1
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert touched > n / 2


def test_soft_labels_stay_soft_and_reach_the_loss(key, labels):
    one_hot = jnp.eye(CLASSES)[labels]
    x = jnp.ones((BATCH, 4, 4, 1))
    for mix in (mixup(0.5, CLASSES), cutmix(0.5, CLASSES)):
        by_integers, by_rows = mix(key, x, labels), mix(key, x, one_hot)
        np.testing.assert_array_equal(by_integers[1], by_rows[1])
        twice = mix(jax.random.fold_in(key, 1), *by_rows)[1]
        np.testing.assert_allclose(twice.sum(1), 1, atol=1e-6)
        logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
        loss = losses.cross_entropy(jnp.broadcast_to(logits, (BATCH, CLASSES)), by_rows[1])
        np.testing.assert_allclose(loss, -(np.asarray(by_rows[1]) @ np.asarray(logits)), atol=1e-5)


def test_labels_out_of_range_are_no_distribution():
    assert np.isnan(soft(np.array([0, 3, -1]), 3)).any(1).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: mixup(0.0, 3), "alpha=0.0"),
        (lambda k: mixup(float("inf"), 3), "alpha=inf"),
        (lambda k: cutmix(1.0, 1), "classes=1"),
        (lambda k: mixup(1.0, 3)(k, np.zeros((2, 4), np.uint8), np.zeros(2, int)), "give floats, or integer images"),
        (lambda k: mixup(1.0, 3)(k, np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)), "distributions"),
        (lambda k: mixup(1.0, 3)(k, np.zeros((2, 4), np.float32), np.zeros(3, int)), "2 examples and 3 labels"),
        (lambda k: cutmix(1.0, 3)(k, np.zeros((2, 4), np.float32), np.zeros(2, int)), "images of shape"),
    ],
)
def test_bad_input_raises(key, call, message):
    with pytest.raises(ValueError, match=message):
        call(key)

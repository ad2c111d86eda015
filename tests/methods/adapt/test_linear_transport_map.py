"""The linear Monge map against SciPy's matrix roots, and the laws that define it, with covariances of any rank."""

import numpy as np
import pytest

from jtl.methods.adapt.linear_transport_map import linear_transport_map
from jtl.methods.adapt.on_features import coral_map
from jtl.methods.adapt.transport_map import transport_map

DRAW = np.random.default_rng(0)
SOURCE = DRAW.normal(size=(60, 5)) @ DRAW.normal(size=(5, 5)) + 1
TARGET = DRAW.normal(size=(40, 5)) @ DRAW.normal(size=(5, 5)) - 2
FEW = SOURCE[:4]


def covariance(x):
    return np.cov(x, rowvar=False, bias=True)


def expected(source, target, rows, ridge):
    """The formula, with SciPy's roots."""
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    own, other = (covariance(x) + ridge * np.eye(x.shape[1]) for x in (source, target))
    root = sqrtm(own).real
    inverse = np.linalg.inv(root)
    a = inverse @ sqrtm(root @ other @ root).real @ inverse
    return target.mean(0) + (rows - source.mean(0)) @ a.T


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.5])
def test_the_map_is_that_of_scipys_roots(ridge):
    for rows in (SOURCE, TARGET[:3]):
        found = linear_transport_map(SOURCE, TARGET, rows, ridge=ridge)
        np.testing.assert_allclose(found, expected(SOURCE, TARGET, rows, ridge), rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(
        linear_transport_map(SOURCE, TARGET, ridge=ridge), linear_transport_map(SOURCE, TARGET, SOURCE, ridge=ridge)
    )
    # Fewer rows than features, where only a ridge gives the formula an inverse.
    if ridge == 0.5:
        found = linear_transport_map(FEW, TARGET[:3], ridge=ridge)
        np.testing.assert_allclose(found, expected(FEW, TARGET[:3], FEW, ridge), rtol=1e-8)


def test_the_mapped_source_has_the_targets_moments_and_went_the_least_way():
    moved = linear_transport_map(SOURCE, TARGET)
    np.testing.assert_allclose(moved.mean(0), TARGET.mean(0), atol=1e-10)
    np.testing.assert_allclose(covariance(moved), covariance(TARGET), rtol=1e-9, atol=1e-9)
    # The squared distance of Bures between the Gaussians is the least mean squared way.
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    own, other = covariance(SOURCE), covariance(TARGET)
    least = np.trace(own + other - 2 * sqrtm(sqrtm(own).real @ other @ sqrtm(own).real).real)
    least += ((SOURCE.mean(0) - TARGET.mean(0)) ** 2).sum()
    np.testing.assert_allclose(((moved - SOURCE) ** 2).sum(1).mean(), least)
    # CORAL's map has the same covariance, and goes further.
    centred = SOURCE - SOURCE.mean(0)
    other = coral_map(centred, TARGET, ridge=1e-9) + TARGET.mean(0)
    assert ((other - SOURCE) ** 2).sum(1).mean() > least + 0.3


def test_the_map_is_symmetric_and_a_shift_a_scaling_and_equal_samples_are_found():
    a = linear_transport_map(SOURCE, TARGET, np.eye(5)) - linear_transport_map(SOURCE, TARGET, np.zeros((1, 5)))
    np.testing.assert_allclose(a, a.T, atol=1e-10)
    assert np.linalg.eigvalsh(a).min() > 0
    stretch = np.array([[3.0, 1.0, 0.5, 2.0, 9.0]])
    np.testing.assert_allclose(linear_transport_map(SOURCE, stretch * SOURCE + 7), stretch * SOURCE + 7)
    np.testing.assert_allclose(linear_transport_map(SOURCE, SOURCE, ridge=0.3), SOURCE)
    # An exact plan of the rows finds a linear map of this kind too.
    np.testing.assert_allclose(
        linear_transport_map(SOURCE, stretch * SOURCE), transport_map(SOURCE, stretch * SOURCE, regularisation=0.0)
    )


def test_a_rotation_of_all_features_and_an_order_of_rows_change_nothing():
    turn = np.linalg.qr(DRAW.normal(size=(5, 5)))[0]
    plain = linear_transport_map(SOURCE, TARGET)
    order, other = DRAW.permutation(60), DRAW.permutation(40)
    found = linear_transport_map(SOURCE[order] @ turn, TARGET[other] @ turn)
    np.testing.assert_allclose(found, plain[order] @ turn, atol=1e-9)


@pytest.mark.parametrize("source", [FEW, np.float32(SOURCE) @ np.diag([1, 1, 1, 0, 0]).astype(np.float32)])
def test_a_source_of_lower_rank_gets_the_targets_covariance_in_its_own_directions(source):
    assert np.linalg.matrix_rank(source - source.mean(0)) == 3
    moved = linear_transport_map(source, TARGET)
    span = np.linalg.svd(np.float64(source) - source.mean(0, dtype=np.float64))[2][:3]
    np.testing.assert_allclose(moved.mean(0), TARGET.mean(0), atol=1e-8)
    inside = span.T @ span
    np.testing.assert_allclose(covariance(moved), inside @ covariance(TARGET) @ inside, atol=1e-6)
    # It is what a vanishing ridge gives the source's own rows.
    np.testing.assert_allclose(linear_transport_map(source, TARGET, ridge=1e-10) @ inside, moved @ inside, atol=1e-3)


def test_a_target_of_lower_rank_is_reached_and_equal_rows_go_to_its_mean():
    moved = linear_transport_map(SOURCE, TARGET[:3])
    np.testing.assert_allclose(covariance(moved), covariance(TARGET[:3]), atol=1e-9)
    still = linear_transport_map(np.ones((3, 5)), TARGET)
    np.testing.assert_allclose(still, np.repeat(TARGET.mean(0, keepdims=True), 3, 0))
    np.testing.assert_allclose(linear_transport_map(SOURCE, np.ones((3, 5))), np.ones((60, 5)), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_transport_map(SOURCE, TARGET, ridge=-1.0), r"ridge=-1\.0: must be a number in \[0, inf\)"),
        (lambda: linear_transport_map(SOURCE, TARGET, ridge=float("nan")), "ridge=nan"),
        (lambda: linear_transport_map(SOURCE, TARGET[:, 1:]), r"shapes \(60, 5\) and \(40, 4\)"),
        (lambda: linear_transport_map(SOURCE[:1], TARGET), "two rows or more"),
        (lambda: linear_transport_map(SOURCE, TARGET, SOURCE[:, 1:]), r"shape \(60, 4\): give .* \[rows, 5\]"),
        (lambda: linear_transport_map(SOURCE, np.where(TARGET < 0, np.nan, TARGET)), "target are not finite in"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

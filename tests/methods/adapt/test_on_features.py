"""Transforms of extracted features against scikit-learn and the laws that define them."""

import numpy as np
import pytest

from jtl import alignments

DRAW = np.random.default_rng(0)
SOURCE = DRAW.normal(size=(60, 5)) @ DRAW.normal(size=(5, 5)) + 1
TARGET = DRAW.normal(size=(40, 5)) @ DRAW.normal(size=(5, 5)) - 2


def test_subspaces_are_those_of_scikit_learn():
    pca = pytest.importorskip("sklearn.decomposition").PCA
    a, b = alignments.subspace_alignment(SOURCE, TARGET, dim=3)
    ps, pt = (pca(3).fit(x) for x in (SOURCE, TARGET))
    wanted = ps.transform(SOURCE) @ ps.components_ @ pt.components_.T
    signs = np.sign((b * pt.transform(TARGET)).sum(0))  # an axis has no direction
    np.testing.assert_allclose(b * signs, pt.transform(TARGET), atol=1e-10)
    np.testing.assert_allclose(a * signs, wanted, atol=1e-10)


def test_the_mapped_source_has_the_targets_covariance():
    moved = alignments.coral_map(SOURCE, TARGET, ridge=1e-10)
    np.testing.assert_allclose(np.cov(moved, rowvar=False), np.cov(TARGET, rowvar=False), rtol=1e-6, atol=1e-6)
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    own, other = (np.cov(x, rowvar=False) + 0.5 * np.eye(5) for x in (SOURCE, TARGET))
    wanted = SOURCE @ np.linalg.inv(sqrtm(own).real) @ sqrtm(other).real
    np.testing.assert_allclose(alignments.coral_map(SOURCE, TARGET, ridge=0.5), wanted, rtol=1e-8)


def test_a_distance_of_one_distribution_is_small_and_grows_with_the_shift():
    x, y = DRAW.normal(size=(2, 400, 3))
    found = [alignments.proxy_a_distance(x, y + shift) for shift in (0.0, 0.5, 1.0, 8.0)]
    assert found[0] < 0.3
    assert found == sorted(found)
    assert found[3] == 2.0
    # Two unit Gaussians at a distance of d: the best error is Φ(−d/2), and a linear rule reaches it.
    erfc = pytest.importorskip("scipy.special").erfc
    assert abs(found[2] - 2 * (1 - erfc(np.sqrt(3) / 2 / np.sqrt(2)))) < 0.15
    assert alignments.proxy_a_distance(x, 7 * (y + 1), seed=3) == alignments.proxy_a_distance(x, 7 * (y + 1), seed=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignments.subspace_alignment(SOURCE, TARGET, 6), "dim=6: .* between 1 and 5"),
        (lambda: alignments.coral_map(SOURCE, TARGET, 0.0), r"ridge=0\.0"),
        (lambda: alignments.coral_map(SOURCE, TARGET[:, 1:]), r"shapes \(60, 5\) and \(40, 4\)"),
        (lambda: alignments.coral_map(SOURCE, np.where(TARGET < 0, np.nan, TARGET)), "target are not finite in"),
        (lambda: alignments.proxy_a_distance(SOURCE[:3], TARGET), "3 and 40 rows"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

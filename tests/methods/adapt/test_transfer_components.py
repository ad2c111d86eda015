"""Transfer components against SciPy's generalised eigenproblem, and the laws of the constraint and of μ."""

import numpy as np
import pytest

from jtl import alignments

DRAW = np.random.default_rng(0)
SOURCE, TARGET, NEW = DRAW.normal(size=(14, 4)), DRAW.normal(size=(11, 4)) + 0.7, DRAW.normal(size=(5, 4))
ROWS = np.concatenate([SOURCE, TARGET])


@pytest.mark.parametrize(("kernel", "width", "mu"), [("rbf", 1.5, 1.0), ("rbf", None, 1e-3), ("linear", None, 10.0)])
def test_components_are_those_of_the_papers_matrices_by_scipy(kernel, width, mu):
    eigh = pytest.importorskip("scipy.linalg").eigh
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    if kernel == "rbf":
        median = np.median(pytest.importorskip("scipy.spatial.distance").pdist(ROWS))
        gamma = 1 / (2 * (width or median) ** 2)
        k, new = (pairwise.rbf_kernel(x, ROWS, gamma) for x in (ROWS, NEW))
    else:
        k, new = (pairwise.linear_kernel(x, ROWS) for x in (ROWS, NEW))
    part = np.full((25, 25), -1 / (14 * 11))
    part[:14, :14], part[14:, 14:] = 1 / 14**2, 1 / 11**2
    centring = np.eye(25) - 1 / 25
    # SciPy scales to Wᵀ (K L K + μ I) W = I, so by the root of λ, and of the rows, to the variance 1.
    values, w = eigh(k @ centring @ k, k @ part @ k + mu * np.eye(25), subset_by_index=[22, 24])
    w = (w / np.sqrt(values / 25))[:, ::-1]
    a, b, c = alignments.transfer_components(SOURCE, TARGET, 3, kernel=kernel, width=width, mu=mu, others=[NEW])
    found, wanted = np.concatenate([a, b, c]), np.concatenate([k, new]) @ w
    np.testing.assert_allclose(found * np.sign((found * wanted).sum(0)), wanted, atol=1e-8)


def test_components_are_uncorrelated_and_rows_again_get_their_place():
    a, b, c, d = alignments.transfer_components(SOURCE, TARGET, 4, others=[SOURCE, TARGET[3:4]])
    np.testing.assert_allclose(np.cov(np.concatenate([a, b]), rowvar=False, bias=True), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(c, a, atol=1e-12)
    np.testing.assert_allclose(d, b[3:4], atol=1e-12)


def test_a_smaller_mu_brings_the_means_together():
    apart = []
    for mu in (10.0, 0.1, 1e-6):
        a, b = alignments.transfer_components(SOURCE, TARGET, 3, mu=mu)
        apart.append(float(((a.mean(0) - b.mean(0)) ** 2).sum()))
    assert apart[0] > 2 * apart[1] > 4 * apart[2]
    assert apart[2] < 1e-6


def test_a_direction_that_tells_the_domains_apart_is_left_out():
    turn = np.linalg.qr(DRAW.normal(size=(4, 4)))[0]
    # Both domains have the same rows but for a shift along the first axis, and a large variance along the second.
    x = (DRAW.normal(size=(40, 4)) - DRAW.normal(size=4)) * np.array([0.3, 3.0, 0.1, 0.1])
    a, b = alignments.transfer_components(x @ turn, (x + np.array([5.0, 0, 0, 0])) @ turn, 1, kernel="linear", mu=1e-6)
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert abs(np.corrcoef(a[:, 0], x[:, 1])[0, 1]) > 0.98


def test_an_order_of_rows_a_rotation_and_units_change_nothing_but_signs():
    first = np.concatenate(alignments.transfer_components(SOURCE, TARGET, 2))
    order, turn = DRAW.permutation(14), 1e3 * np.linalg.qr(DRAW.normal(size=(4, 4)))[0]
    a, b = alignments.transfer_components(SOURCE[order] @ turn + 50, TARGET @ turn + 50, 2)
    again = np.concatenate([a[np.argsort(order)], b])
    np.testing.assert_allclose(again * np.sign((again * first).sum(0)), first, atol=1e-7)


def test_equal_domains_leave_the_components_of_the_kernel():
    """Without a distance of means they are kernel PCA's where the centred kernel is taken."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    centred = ROWS - ROWS.mean(0)
    a, b = alignments.transfer_components(centred, centred, 2, kernel="linear", mu=0.5)
    np.testing.assert_allclose(a, b, atol=1e-10)
    wanted = decomposition.PCA(2, whiten=True).fit_transform(centred) * np.sqrt(25 / 24)
    np.testing.assert_allclose(a * np.sign((a * wanted).sum(0)), wanted, atol=1e-8)


@pytest.mark.parametrize(
    ("dim", "given", "message"),
    [
        (0, {}, "dim=0"),
        (5, {"kernel": "linear"}, "dim=5: the kernel of these 25 rows has 4 components"),
        (2, {"mu": 0.0}, r"mu=0\.0"),
        (2, {"width": -1.0}, r"width=-1\.0"),
        (2, {"kernel": "linear", "width": 1.0}, "'linear', which has no width"),
        (2, {"kernel": "cosine"}, "kernel='cosine'|Type-check"),
        (2, {"others": [NEW[:, 1:]]}, r"further rows of shape \(5, 3\)|Type-check"),
        (2, {"others": [NEW * np.nan]}, r"further rows of shape \(5, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(dim, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        alignments.transfer_components(SOURCE, TARGET, dim, **given)


def test_rounding_of_rows_far_from_zero_is_no_component():
    for source, target, most in ((0.3 * np.ones((6, 2)), 0.3 * np.ones((6, 2)), 0), (SOURCE + 100, TARGET + 100, 4)):
        with pytest.raises(ValueError, match=f"rows has {most} components"):
            alignments.transfer_components(source, target, most + 1, kernel="linear")

"""Weights of source rows against SciPy, the conditions of their optima, and ratios of known densities."""

from functools import partial

import numpy as np
import pytest

from jtl import alignments
from jtl.methods.adapt.row_distances import gaussian_kernel, median_distance

DRAW = np.random.default_rng(0)
SOURCE, TARGET = DRAW.normal(size=(40, 2)), 0.7 * DRAW.normal(size=(30, 2)) + 0.5
K, KAPPA = gaussian_kernel(SOURCE, SOURCE, 0.8), 40 * gaussian_kernel(SOURCE, TARGET, 0.8).mean(1)
matched = partial(alignments.kernel_mean_matching, SOURCE, TARGET, width=0.8)
BOTH = [alignments.kernel_mean_matching, alignments.kliep]


def test_the_kernel_is_that_of_scikit_learn_and_its_width_that_of_scipy():
    rbf_kernel = pytest.importorskip("sklearn.metrics.pairwise").rbf_kernel
    np.testing.assert_allclose(gaussian_kernel(SOURCE, TARGET, 0.8), rbf_kernel(SOURCE, TARGET, 1 / (2 * 0.8**2)))
    pdist = pytest.importorskip("scipy.spatial.distance").pdist
    assert median_distance(SOURCE) == pytest.approx(np.median(pdist(SOURCE)))
    assert median_distance(np.repeat(SOURCE, 2, 0)) == pytest.approx(
        np.median([d for d in pdist(np.repeat(SOURCE, 2, 0)) if d])
    )


def test_the_width_of_many_rows_is_that_of_some_of_them():
    """All pairs of as many rows would be 80 GB."""
    many = np.random.default_rng(1).normal(size=(100_000, 2))
    assert median_distance(many) == pytest.approx(2 * np.log(2) ** 0.5, rel=0.03)  # of √2 times Rayleigh's


@pytest.mark.parametrize(
    ("bound", "slack", "active"),
    [(1000.0, None, ""), (2.0, None, "bound"), (1000.0, 1e-3, "sum"), (1.2, 0.05, "sum bound")],
)
def test_matching_fulfils_the_conditions_of_its_minimum(bound, slack, active):
    w = matched(bound=bound, slack=slack)
    slack = 1 - 1 / 40**0.5 if slack is None else slack
    assert w.min() >= 0
    assert w.max() <= bound
    assert abs(w.mean() - 1) <= slack * (1 + 1e-9)
    slope = (K @ w - KAPPA) / 40
    lower, upper = w < 1e-5, w > bound - 1e-5
    assert lower.any()
    assert upper.any() == ("bound" in active)
    shared = slope[~lower & ~upper]  # minus the multiplier of the sum
    assert np.ptp(shared) < 1e-7
    assert (slope[lower] >= shared.min() - 1e-7).all()
    assert (slope[upper] <= shared.max() + 1e-7).all()
    at_limit = abs(abs(w.mean() - 1) - slack) < 1e-7
    assert at_limit == ("sum" in active)
    # The multiplier is 0 inside of the limits, and pushes towards 1 at one.
    assert abs(shared.mean()) < 1e-7 if not at_limit else shared.mean() * (w.mean() - 1) < 0


def test_matching_is_scipys_minimum():
    minimize = pytest.importorskip("scipy.optimize").minimize
    a, b = SOURCE[:10], TARGET[:8]
    k, kappa = gaussian_kernel(a, a, 0.8), 10 * gaussian_kernel(a, b, 0.8).mean(1)
    sums = [{"type": "ineq", "fun": lambda w, s=s: s * (w.sum() - 10) + 0.5} for s in (1, -1)]
    best = minimize(
        lambda w: (w @ k @ w / 2 - kappa @ w, k @ w - kappa),
        np.ones(10),
        jac=True,
        bounds=[(0, 1.5)] * 10,
        constraints=sums,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    found = alignments.kernel_mean_matching(a, b, width=0.8, bound=1.5, slack=0.05)
    np.testing.assert_allclose(found, best.x, atol=1e-5)


def mixture(source, target, centres, width):
    """The paper's problem in its own variables, by SciPy: α, and the mean of log w at rows of the target."""
    minimize = pytest.importorskip("scipy.optimize").minimize
    at, mean = gaussian_kernel(target, centres, width), gaussian_kernel(source, centres, width).mean(0)
    best = minimize(
        lambda a: (-np.log(at @ a).mean(), -(at / (at @ a)[:, None]).mean(0)),
        np.full(len(centres), 1 / mean.sum()),
        jac=True,
        bounds=[(0, None)] * len(centres),
        constraints=[{"type": "eq", "fun": lambda a: mean @ a - 1, "jac": lambda a: mean}],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    return best.x, -best.fun


@pytest.mark.parametrize("width", [0.3, 1.0])
def test_kliep_is_scipys_maximum(width):
    alpha, _ = mixture(SOURCE, TARGET, TARGET, width)
    wanted = gaussian_kernel(SOURCE, TARGET, width) @ alpha
    np.testing.assert_allclose(alignments.kliep(SOURCE, TARGET, width=width), wanted, atol=2e-4)


def test_kliep_takes_the_width_of_the_highest_likelihood_of_rows_left_out():
    widths, scores = [0.1, 0.5, 4.0], []
    draw = np.random.default_rng(3)  # the seed's own order of rows, then its folds
    chosen, parts = draw.permutation(30)[:20], np.array_split(draw.permutation(30), 3)
    for width in widths:
        found = []
        for part in parts:
            seen, centres = np.delete(TARGET, part, 0), TARGET[[c for c in chosen if c not in part]]
            alpha, _ = mixture(SOURCE, seen, centres, width)
            found.append(np.log(gaussian_kernel(TARGET[part], centres, width) @ alpha).mean())
        scores.append(np.mean(found))
    best = widths[int(np.argmax(scores))]
    assert best == 0.5
    call = {"centres": 20, "folds": 3, "seed": 3}
    found = alignments.kliep(SOURCE, TARGET, width=widths, **call)
    np.testing.assert_array_equal(found, alignments.kliep(SOURCE, TARGET, width=best, **call))


@pytest.mark.parametrize("weigh", BOTH)
def test_weights_of_separate_points_are_the_ratio_of_their_shares(weigh):
    at = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    here, there = np.repeat([0, 1, 2], [30, 10, 20]), np.repeat([0, 1, 2], [5, 10, 5])
    ratio = np.array([5 / 20 * 60 / 30, 10 / 20 * 60 / 10, 5 / 20 * 60 / 20])
    np.testing.assert_allclose(weigh(at[here], at[there], width=1.0), ratio[here], atol=1e-6)


def test_rows_of_one_sample_are_weighted_as_they_are():
    np.testing.assert_allclose(alignments.kernel_mean_matching(SOURCE, SOURCE, width=0.5), 1.0, atol=1e-3)
    x, y = np.random.default_rng(1).normal(size=(2, 300, 2))
    assert np.abs(alignments.kliep(x, y) - 1).mean() < 0.1


@pytest.mark.parametrize("weigh", BOTH)
def test_the_ratio_of_two_gaussians_is_found(weigh):
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(400, 1)), 0.6 * draw.normal(size=(400, 1)) + 0.5
    ratio = np.exp(x**2 / 2 - ((x - 0.5) / 0.6) ** 2 / 2)[:, 0] / 0.6
    assert np.abs(weigh(x, y) - ratio).mean() < 0.5 * np.abs(1 - ratio).mean()


@pytest.mark.parametrize("weigh", BOTH)
def test_units_of_features_and_an_order_of_rows_change_nothing(weigh):
    order = DRAW.permutation(40)
    first = weigh(SOURCE, TARGET)
    np.testing.assert_allclose(weigh(1e4 * SOURCE[order] + 7, 1e4 * TARGET + 7), first[order], atol=2e-3)


@pytest.mark.parametrize("width", [0.01, 100.0])
def test_domains_far_apart_have_finite_weights(width):
    far = TARGET + 50
    w = alignments.kliep(SOURCE, far, width=width)
    assert w.mean() == pytest.approx(1)
    assert np.isfinite(w).all()
    w = alignments.kernel_mean_matching(SOURCE, far, width=width, slack=0.1)
    assert 0.9 - 1e-9 <= w.mean() <= 1.1 + 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(matched, bound=0.0), r"bound=0\.0"),
        (partial(matched, slack=-1.0), r"slack=-1\.0"),
        (partial(matched, bound=0.5, slack=0.4), r"bound=0\.5, slack=0\.4"),
        (partial(alignments.kernel_mean_matching, SOURCE, TARGET, width=float("nan")), "width=nan"),
        (partial(alignments.kernel_mean_matching, SOURCE[:1], TARGET), "two rows or more"),
        (partial(alignments.kliep, SOURCE, TARGET, width=[1.0, 0.0]), r"width\[1\]=0\.0"),
        (partial(alignments.kliep, SOURCE, TARGET, width=[]), "width is empty"),
        (partial(alignments.kliep, SOURCE, TARGET, centres=0), "centres=0"),
        (partial(alignments.kliep, SOURCE, TARGET, folds=1), "folds=1"),
        (partial(alignments.kliep, SOURCE, TARGET, folds=31), "folds=31: the target has 30"),
        (partial(alignments.kliep, SOURCE, np.ones((5, 2)) * SOURCE[:1], seed=-1), "seed=-1"),
        (partial(alignments.kliep, np.ones((3, 2)), np.ones((5, 2))), "all 8 rows"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

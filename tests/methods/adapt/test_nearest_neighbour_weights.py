"""Nearest-neighbour weights against loops and SciPy's tree, and ratios of known densities."""

import sys

import numpy as np
import pytest

from jtl.methods.adapt.nearest_neighbour_weights import nearest_neighbour_weights

DRAW = np.random.default_rng(0)
SOURCE, TARGET = DRAW.normal(size=(40, 3)), 0.7 * DRAW.normal(size=(50, 3)) + 0.5


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 0.3])
def test_weights_are_the_counts_of_loops_and_of_scipys_tree(smoothing, monkeypatch):
    counts = np.zeros(40)
    for row in TARGET:
        counts[np.argmin([np.linalg.norm(row - other) for other in SOURCE])] += 1
    wanted = (counts + smoothing) / (counts + smoothing).mean()
    found = nearest_neighbour_weights(SOURCE, TARGET, smoothing=smoothing)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert found.mean() == pytest.approx(1)
    monkeypatch.setattr(sys.modules[nearest_neighbour_weights.__module__], "PART", 7 * 40)  # parts of 7 rows
    np.testing.assert_array_equal(nearest_neighbour_weights(SOURCE, TARGET, smoothing=smoothing), found)
    tree = pytest.importorskip("scipy.spatial").cKDTree(SOURCE)
    np.testing.assert_array_equal(np.bincount(tree.query(TARGET)[1], minlength=40), counts)


def test_weights_of_separate_points_are_the_ratio_of_their_shares_in_any_order():
    at = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    here, there = np.repeat([0, 1, 2], [30, 10, 20]), np.repeat([0, 1, 2], [5, 10, 5])
    ratio = np.array([5 / 20 * 60 / 30, 10 / 20 * 60 / 10, 5 / 20 * 60 / 20])
    np.testing.assert_allclose(nearest_neighbour_weights(at[here], at[there] + 0.1, smoothing=0.0), ratio[here])
    order = DRAW.permutation(60)
    found = nearest_neighbour_weights(at[here][order], at[there], smoothing=0.5)
    smooth = (np.array([5 / 30, 10 / 10, 5 / 20]) + 0.5)[here]
    np.testing.assert_allclose(found, (smooth / smooth.mean())[order])


def test_domains_of_one_sample_have_equal_weights_and_units_in_common_change_nothing():
    np.testing.assert_allclose(nearest_neighbour_weights(SOURCE, SOURCE[::-1], smoothing=0.0), 1.0)
    found = nearest_neighbour_weights(1e4 * SOURCE + 7, 1e4 * TARGET + 7)
    np.testing.assert_allclose(found, nearest_neighbour_weights(SOURCE, TARGET))
    np.testing.assert_allclose(nearest_neighbour_weights(SOURCE, TARGET, smoothing=1e9), 1.0, atol=1e-6)


def test_a_weighted_mean_of_the_source_is_that_of_the_target():
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(2000, 1)), 0.6 * draw.normal(size=(2000, 1)) + 0.5
    w = nearest_neighbour_weights(x, y, smoothing=0.0)
    for moment in (1, 2):
        assert abs((w * x[:, 0] ** moment).mean() - (y**moment).mean()) < 5e-3
    ratio = np.exp(x**2 / 2 - ((x - 0.5) / 0.6) ** 2 / 2)[:, 0] / 0.6
    order = np.argsort(x[:, 0])
    by_part = np.array([[w[part].mean(), ratio[part].mean()] for part in np.array_split(order, 10)])
    np.testing.assert_allclose(by_part[:, 0], by_part[:, 1], atol=0.4)
    assert np.ptp(by_part[:, 1]) > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_neighbour_weights(SOURCE, TARGET, smoothing=-1.0), r"smoothing=-1\.0: must be a number in"),
        (lambda: nearest_neighbour_weights(SOURCE, TARGET, smoothing=float("inf")), "smoothing=inf"),
        (lambda: nearest_neighbour_weights(SOURCE, TARGET[:, 1:]), r"shapes \(40, 3\) and \(50, 2\)"),
        (lambda: nearest_neighbour_weights(SOURCE[:1], TARGET), "two rows or more"),
        (lambda: nearest_neighbour_weights(SOURCE * np.nan, TARGET), "source are not finite in 40 rows"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

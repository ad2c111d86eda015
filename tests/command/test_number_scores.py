"""Scores of numbers equal scikit-learn's and SciPy's."""

import json

import numpy as np
import pytest

from jtl.command.number_scores import scored_numbers

DRAW = np.random.default_rng(0)
Y = np.round(DRAW.normal(3, 2, 40), 1)  # with ties
OUTPUTS = (Y + DRAW.normal(size=40)).round(1)[:, None]
ABOUT = {"centre": 2.5}


def test_scores_are_sklearns_and_scipys():
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    found, predicted = scored_numbers(OUTPUTS, Y, ("stars",), ABOUT).numbers(), OUTPUTS[:, 0]
    expected = {
        "rmse": metrics.root_mean_squared_error(Y, predicted),
        "mae": metrics.mean_absolute_error(Y, predicted),
        "r2": metrics.r2_score(Y, predicted),
        "spearman": stats.spearmanr(Y, predicted).statistic,
        "pearson": stats.pearsonr(Y, predicted).statistic,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
    base, mean = found["training mean"], np.full(40, 2.5)
    np.testing.assert_allclose(base["rmse"], metrics.root_mean_squared_error(Y, mean), rtol=1e-12)
    np.testing.assert_allclose(base["mae"], metrics.mean_absolute_error(Y, mean), rtol=1e-12)
    np.testing.assert_allclose(base["r2"], metrics.r2_score(Y, mean), rtol=1e-12)


def test_the_largest_errors_come_first():
    found = scored_numbers(np.array([[1.0], [5.0], [2.0]]), np.array([1.5, 2.0, 2.0]), ("stars",), {})
    assert found.worst() == [1, 0, 2]
    assert found.errors.tolist() == [-0.5, 3.0, 0.0]


def test_what_does_not_exist_is_none_and_no_nan():
    found = scored_numbers(np.ones((3, 1)), np.full(3, 2.0), ("stars",), {})
    assert (found.r2, found.spearman, found.pearson, found.baseline) == (None,) * 4
    tenths = np.full(3, 0.1)  # whose mean is not 0.1
    assert scored_numbers(tenths[:, None] + 1, tenths, ("stars",), {}).r2 is None
    assert "NaN" not in json.dumps(found.numbers(), allow_nan=False)
    assert found.told == "RMSE 1 in the unit of 'stars', of 3"
    assert "R²: -" in found.lines()


def test_an_output_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="output of example 1 is not finite"):
        scored_numbers(np.array([[0.0], [np.inf]]), np.zeros(2), ("stars",), {})

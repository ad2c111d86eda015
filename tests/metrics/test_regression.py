"""R² against scikit-learn, and calibration against bins counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from jtl import metrics
from jtl.metrics.accumulate import added


@pytest.mark.parametrize(("mean", "centre"), [(0.0, 0.0), (1000.0, 1000.0), (1000.0, 990.0)])
def test_r2_is_scikit_learns_at_any_mean_with_a_centre_near(mean, centre):
    draw = np.random.default_rng(0)
    y = (mean + draw.normal(size=(50, 1))).astype(np.float32)
    prediction = (y + 0.3 * draw.normal(size=y.shape)).astype(np.float32)
    weights = draw.integers(0, 3, 50).astype(np.float32)
    metric = metrics.r2(centre)
    with pytest.raises(ValueError, match=r"predictions of shape \(50,\) beside y of shape \(50, 1\)"):
        metric.sums(prediction[:, 0], y, None)
    wanted = r2_score(y[:, 0].astype(np.float64), prediction[:, 0].astype(np.float64), sample_weight=weights)
    prediction[weights == 0] = np.nan
    halves = [metric.sums(prediction[i::2], y[i::2], weights[i::2]) for i in range(2)]
    np.testing.assert_allclose(metric.finish(added(*halves)), wanted, rtol=1e-3)


def test_nothing_to_explain_is_no_number():
    y = np.ones(4, np.float32)
    assert np.isnan(metrics.r2().finish(metrics.r2().sums(y, y, None)))


def test_calibration_is_the_sum_over_bins():
    draw = np.random.default_rng(0)
    logits, y = draw.normal(size=(200, 5)).astype(np.float32) * 2, draw.integers(0, 5, 200).astype(np.int32)
    weights = (draw.random(200) < 0.7).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right, kept = p.max(1), p.argmax(1) == y, weights > 0
    wanted = 0.0
    for low in np.arange(15) / 15:
        inside = kept & (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            wanted += inside.sum() / kept.sum() * abs(right[inside].mean() - confidence[inside].mean())
    metric = metrics.calibration_error(15)
    wild = np.where(kept[:, None], logits, np.nan)
    parts = [metric.sums(wild[i::2], y[i::2], weights[i::2]) for i in range(2)]
    np.testing.assert_allclose(metric.finish(added(*parts)), wanted, rtol=1e-5)
    one = metrics.calibration_error(1)
    np.testing.assert_allclose(one.finish(one.sums(logits, y, None)), abs(right.mean() - confidence.mean()), rtol=1e-5)
    assert float(one.finish(one.sums(logits, y, np.zeros(200)))) == 0
    with pytest.raises(ValueError, match="bins=0"):
        metrics.calibration_error(0)

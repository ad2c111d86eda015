"""Regression in the units of its targets."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import losses, tasks
from jtl.methods.finetune.finetune import judged
from jtl.metrics.accumulate import total


def test_loss_is_torchs_of_scaled_targets_and_errors_are_scikit_learns_in_their_units():
    torch = pytest.importorskip("torch")
    sk = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    output = draw.normal(size=(6, 2)).astype(np.float32)
    y = (100 + 5 * draw.normal(size=(6, 2))).astype(np.float32)
    mask = np.arange(6) < 5
    for loss, theirs in ((losses.mse, "mse_loss"), (losses.huber, "huber_loss")):
        task = tasks.regression(2, loss=loss, centre=(99.0, 101.0), scale=(5.0, 4.0))
        value, found = judged(jnp.asarray(output), {"y": y, "mask": mask}, task.loss, task.metrics)
        scaled = (torch.tensor(y) - torch.tensor([99.0, 101.0])) / torch.tensor([5.0, 4.0])
        wanted = getattr(torch.nn.functional, theirs)(torch.tensor(output)[mask], scaled[mask])
        np.testing.assert_allclose(total(value), wanted, rtol=1e-5)
        prediction = task.decode(output)[mask]
        np.testing.assert_allclose(found["mae"].value, sk.mean_absolute_error(y[mask], prediction), rtol=1e-5)
        np.testing.assert_allclose(found["rmse"].value, sk.mean_squared_error(y[mask], prediction) ** 0.5, rtol=1e-5)


def test_one_target_may_come_without_an_axis():
    task = tasks.regression()
    output = jnp.array([[1.0], [3.0]])
    np.testing.assert_allclose(task.loss(output, np.array([0.0, 1.0], np.float32)), [1, 4])
    np.testing.assert_allclose(task.loss(output, np.array([[0.0], [1.0]], np.float32)), [[1], [4]])
    assert task.decode(output).tolist() == [1, 3]


def test_numbers_that_are_missing_do_not_count():
    sk = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    output, y = draw.normal(size=(8, 2)).astype(np.float32), (50 + 9 * draw.normal(size=(8, 2))).astype(np.float32)
    kept = draw.random((8, 2)) < 0.7
    task = tasks.regression(2, centre=(40.0, 60.0), scale=(5.0, 9.0))
    batch = {"y": np.where(kept, y, -1), "mask": np.ones(8, bool)}
    value, found = judged(jnp.asarray(output), batch, task.loss, task.metrics, ignore=-1)
    scaled = (y - np.array([40, 60])) / np.array([5, 9])
    np.testing.assert_allclose(total(value), ((output - scaled) ** 2)[kept].mean(), rtol=1e-5)
    prediction = task.decode(output)
    np.testing.assert_allclose(found["mae"].value, np.abs(prediction - y)[kept].mean(), rtol=1e-5)
    pairs = [(y[k, i], prediction[k, i]) for i, k in enumerate(kept.T)]
    np.testing.assert_allclose(found["r2"].value, np.mean([sk.r2_score(*pair) for pair in pairs]), rtol=1e-4)
    weighted, _ = judged(jnp.asarray(output), {"y": y, "weights": kept}, task.loss, {})
    np.testing.assert_allclose(total(weighted), total(value), rtol=1e-6)
    one = tasks.regression(centre=50.0, scale=9.0)
    _, found = judged(jnp.asarray(output[:, :1]), {"y": y[:, 0]}, one.loss, one.metrics)
    np.testing.assert_allclose(found["r2"].value, sk.r2_score(y[:, 0], one.decode(output[:, :1])), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("inf")}, "scale=inf: give a finite number"),
        ({"centre": float("nan")}, "centre=nan: give a finite number"),
        ({"outputs": 2, "scale": [1.0, 2.0, 3.0]}, r"scale=\[1.0, 2.0, 3.0\]: .* each of 2 outputs"),
        ({"outputs": 0}, "classes=0"),
    ],
)
def test_units_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.regression(**options)


def test_wrong_scales_and_targets_are_refused():
    with pytest.raises(ValueError, match=r"scale=0.0: give the spread of the targets, above 0"):
        tasks.regression(scale=0.0)
    with pytest.raises(ValueError, match=r"targets y of shape \(3,\) beside predictions of shape \(3, 2\)"):
        tasks.regression(2).loss(jnp.zeros((3, 2)), np.zeros(3, np.float32))

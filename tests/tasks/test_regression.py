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
    np.testing.assert_allclose(task.loss(output, np.array([[0.0], [1.0]], np.float32)), [1, 4])
    assert task.decode(output).tolist() == [1, 3]


def test_wrong_scales_and_targets_are_refused():
    with pytest.raises(ValueError, match=r"scale=0.0: give the spread of the targets, above 0"):
        tasks.regression(scale=0.0)
    with pytest.raises(ValueError, match=r"targets y of shape \(3,\) beside predictions of shape \(3, 2\)"):
        tasks.regression(2).loss(jnp.zeros((3, 2)), np.zeros(3, np.float32))

import jax
import numpy as np
import optax
import pytest
from nets import batch, normed, parts, top

from jtl import losses
from jtl.data import arrays
from jtl.methods.finetune.finetune import evaluation, finetune, predictor
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.train.evaluate import evaluate


def test_loss_and_accuracy_of_masked_rows_by_hand(key):
    rows = batch(masked=True)
    net, _, variables = parts(key, rows["x"])
    value, aux = finetune(net)(variables.params, {}, rows, key, 0)
    logits = predictor(net)(variables, rows["x"])
    keep = rows["mask"]
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, rows["y"])
    np.testing.assert_allclose(total(value), ce[keep].mean(), rtol=1e-6)
    right = (logits.argmax(-1) == rows["y"])[keep].mean()
    np.testing.assert_allclose(aux.metrics["accuracy"].value, right, rtol=1e-6)


def test_frozen_statistics_stay_and_running_ones_move(key):
    rows = batch()
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["x"])
    for frozen in (True, False):
        _, aux = finetune(net, frozen_stats=frozen)(variables.params, variables.stats, rows, key, 0)
        same = [
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(aux.stats), jax.tree.leaves(variables.stats), strict=True)
        ]
        assert all(same) == frozen
    loss, aux = evaluation(net)(variables.params, variables.stats, rows, None, 0)
    jax.tree.map(np.testing.assert_array_equal, aux.stats, variables.stats)
    frozen_loss, _ = finetune(net, frozen_stats=True)(variables.params, variables.stats, rows, key, 0)
    np.testing.assert_array_equal(total(loss), total(frozen_loss))


def test_regression_takes_its_own_loss_and_metrics(key):
    rows = batch()
    rows["y"] = rows["x"][:, :1] * 2.0
    net, _, variables = parts(key, rows["x"], classes=1)
    objective = finetune(net, lambda out, y: losses.mse(out[:, 0], y[:, 0]), metrics={})
    value, aux = objective(variables.params, {}, rows, key, 0)
    out = predictor(net)(variables, rows["x"])
    np.testing.assert_allclose(total(value), ((out - rows["y"]) ** 2).mean(), rtol=1e-5)
    assert aux.metrics == {}


def test_data_without_labels_are_told(key):
    net = network(backbone=normed(4), head=top(3))
    x = batch()["x"]
    data = arrays(x, batch_size=8, shuffle=False)
    with pytest.raises(ValueError, match=r"the batch holds \['mask', 'x'\] and no labels 'y', which this loss needs"):
        evaluate(evaluation(net), net.init(key, x), data)

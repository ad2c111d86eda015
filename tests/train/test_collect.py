"""Rows of an evaluation, in their order, without those that are masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import parts

from jtl import data
from jtl.methods.finetune.finetune import evaluation
from jtl.train.collect import collect, predict
from jtl.train.parallel.sharding import mesh
from jtl.typing import Aux


def rows(n=21, classes=3):
    draw = np.random.default_rng(0)
    return draw.normal(size=(n, 5)).astype(np.float32), draw.integers(0, classes, n).astype(np.int32)


@pytest.mark.parametrize("devices", [1, 8])
def test_rows_come_in_order_and_padding_is_dropped(key, devices):
    x, y = rows()
    net, _, variables = parts(key, x)
    batches = data.arrays(x, y, batch_size=8, shuffle=False)
    grid = mesh(devices=jax.devices()[:devices])
    found = collect(evaluation(net), variables, batches, mesh=grid)
    expected, _ = net.apply(variables, x, train=False)
    np.testing.assert_array_equal(found["y"], y)
    np.testing.assert_allclose(found["output"], expected.output, atol=1e-6)
    np.testing.assert_allclose(found["read"], expected.features["pooled"], atol=1e-6)


def test_it_is_compiled_once_for_all_batches_and_what_is_not_wanted_costs_nothing(key):
    x, y = rows()
    traces = []

    def objective(params, stats, batch, key, step):
        traces.append(batch["x"].shape)
        return jnp.zeros(()), Aux(stats, outputs={"sum": batch["x"].sum(1), "pair": {"y": batch["y"]}})

    _, _, variables = parts(key, x)
    found = collect(objective, variables, data.arrays(x, y, batch_size=8, shuffle=False), only=("pair",))
    assert list(found) == ["pair"]
    np.testing.assert_array_equal(found["pair"]["y"], y)
    assert traces == [(8, 5)]


def test_predictions_need_no_labels(key):
    x, _ = rows()
    net, _, variables = parts(key, x)
    found = predict(net, variables, data.arrays(x, batch_size=8, shuffle=False))
    np.testing.assert_allclose(found, net.apply(variables, x, train=False)[0].output, atol=1e-6)


def test_what_cannot_be_collected_is_named(key):
    x, y = rows()
    net, _, variables = parts(key, x)
    batches = data.arrays(x, y, batch_size=8, shuffle=False)
    with pytest.raises(ValueError, match=r"'logits'.*: this objective has the outputs \['output', 'read', 'y'\]"):
        collect(evaluation(net), variables, batches, only=("logits",))
    with pytest.raises(ValueError, match="has the outputs \\[\\]"):
        collect(lambda params, stats, batch, key, step: (jnp.zeros(()), Aux(stats)), variables, batches)

    def whole(params, stats, batch, key, step):
        return jnp.zeros(()), Aux(stats, outputs={"mean": batch["x"].mean(0)})

    with pytest.raises(ValueError, match=r"shape \(5,\) has not one row for each of the batch's 8"):
        collect(whole, variables, batches)

    def tokens(params, stats, batch, key, step):
        return jnp.zeros(()), Aux(stats, outputs={"tokens": batch["x"]["mask"]})

    texts = data.by_length({"mask": np.arange(64) < np.array([[3], [60]])}, batch_size=1, shuffle=False)
    with pytest.raises(ValueError, match=r"'tokens' has rows of the shapes \[\(16,\), \(64,\)\].*data\.whole"):
        collect(tokens, variables, texts)
    assert collect(tokens, variables, texts.whole)["tokens"].sum(1).tolist() == [3, 60]

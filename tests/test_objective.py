"""What a loss function may return."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, parts

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.mcc import mcc
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import as_terms, total
from jtl.model import Variables
from jtl.objective import Objective, as_objective, on
from jtl.train.step import make_step
from jtl.typing import Aux


def scalar(params, stats, batch, key, step):
    return jnp.sum(params["w"] ** 2)


def bare_statistics(params, stats, batch, key, step):
    return jnp.sum(params["w"] ** 2), stats


@pytest.mark.parametrize(
    ("loss", "told"),
    [(scalar, "scalar returned one"), (bare_statistics, r"bare_statistics returned a tuple of.*dict")],
)
def test_a_loss_without_aux_is_told_what_to_return(key, loss, told):
    with pytest.raises(TypeError, match=rf"{told}.*: give \(loss, jtl\.Aux\(stats\)\)"):
        as_objective(loss)({"w": jnp.ones(2)}, {}, {}, key, 0)
    step = make_step(loss, optax.sgd(0.1))
    with pytest.raises(TypeError, match=told):
        step(step.init(Variables({"w": jnp.ones(2)}, {}), key), {"x": np.zeros((2, 1), np.float32)})


def test_a_maker_of_objectives_that_is_not_called_is_named(key):
    net = parts(key, batch(n=8)["x"])[0]
    with pytest.raises(TypeError, match=r"mcc does not take \(params, .*call it, as mcc\(\.\.\.\)"):
        adapt(net, alignments=[mcc])
    as_objective(jax.jit(scalar))
    as_objective(lambda *given: given)


def test_an_alignment_without_aux_is_named(key):
    rows = {"source": batch(n=8, seed=0), "target": batch(n=8, seed=1)}
    net, _, variables = parts(key, rows["source"]["x"])

    def gap(params, stats, views, key, step):
        return views["target"].output.sum()

    with pytest.raises(TypeError, match=r"gap returned one .*: give \(loss, jtl\.Aux\(stats\)\)"):
        adapt(net, alignments=[gap])(variables.params, {}, rows, key, 0)


def test_a_loss_with_aux_is_passed_on(key):
    value, aux = as_objective(lambda params, stats, batch, key, step: (params["w"], Aux(stats)))(
        {"w": jnp.float32(2)}, {"n": 1}, {}, key, 0
    )
    assert float(value) == 2
    assert aux.stats == {"n": 1}


def test_an_objective_is_compiled_as_it_is_called(key):
    rows = batch(n=8)
    net, _, variables = parts(key, rows["x"])
    objective = finetune(net)
    for _ in range(2):
        loss, aux = jax.jit(objective)(variables.params, variables.stats, rows, key, 0)
    expected, other = objective(variables.params, variables.stats, rows, key, 0)
    np.testing.assert_allclose(*(total(as_terms(found)) for found in (loss, expected)), rtol=1e-6)
    assert aux.metrics.keys() == other.metrics.keys()


def test_an_objective_on_changed_batches_keeps_all_else(key):
    def loss(params, stats, batch, key, step):
        return params["w"] * batch["x"] + step, Aux(stats, {"key": key})

    def init(key, batch, given=None):
        return Variables({"w": batch["x"], "key": key}, {})

    inner = Objective(loss, init, lambda stats, params: stats, ("cat", "dog"))
    found = on(inner, lambda batch, key: {"x": batch["x"] + jax.random.uniform(key)})
    x = 4.0 + jax.random.uniform(key)
    assert found.init(key, {"x": 4.0}).params == {"w": x, "key": key}
    value, aux = found({"w": 2.0}, {}, {"x": 4.0}, key, 1.0)
    assert (value, aux.metrics["key"]) == (2.0 * x + 1.0, key)
    assert (found.commit, found.classes) == (inner.commit, ("cat", "dog"))

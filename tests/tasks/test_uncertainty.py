"""Weights that are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, largest_difference, top

import jtl
from jtl.metrics.accumulate import total


@pytest.fixture(scope="module")
def setting():
    nets = {name: jtl.network(backbone=dense(8), **{name: top(n)}) for name, n in (("a", 3), ("b", 2))}
    own = {name: jtl.finetune(net) for name, net in nets.items()}
    both = {"a": batch(n=16, seed=1, masked=True), "b": batch(n=8, classes=2, seed=2)}
    objective = jtl.tasks.uncertainty_weighted(**own)
    return own, both, objective, objective.init(jax.random.key(0), both)


def _value_and_grad(objective, variables, both, key, params):
    return jax.jit(jax.value_and_grad(lambda p: total(objective(p, variables.stats, both, key, 0)[0])))(params)


def test_value_and_gradient_are_those_of_the_formula(key, setting):
    own, both, objective, variables = setting
    s = {"a": jnp.asarray(0.7), "b": jnp.asarray(-0.4)}
    value, grads = _value_and_grad(objective, variables, both, key, {**variables.params, "log_variances": s})
    rest = {name: part for name, part in variables.params.items() if name != "log_variances"}
    fixed = jtl.tasks.together({"a": float(np.exp(-0.7)), "b": float(np.exp(0.4))}, **own)
    plain, theirs = _value_and_grad(fixed, variables, both, key, rest)
    np.testing.assert_allclose(value, plain + (0.7 - 0.4) / 2, rtol=1e-6)
    learned = grads.pop("log_variances")
    assert largest_difference(grads, theirs) < 1e-6
    for name, task in own.items():
        loss = float(task(rest, variables.stats, both[name], key, 0)[0].value)
        np.testing.assert_allclose(learned[name], 0.5 - np.exp(-float(s[name])) * loss, rtol=1e-5)


def test_it_starts_as_the_plain_sum(key, setting):
    own, both, objective, variables = setting
    rest = {name: part for name, part in variables.params.items() if name != "log_variances"}
    found = total(objective(variables.params, variables.stats, both, key, 0)[0])
    expected = total(jtl.tasks.together(**own)(rest, variables.stats, both, key, 0)[0])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_given_weights_stay(key, setting):
    _, both, objective, variables = setting
    learned = {"a": jnp.asarray(0.7), "b": jnp.asarray(-0.4)}
    given = variables._replace(params={**variables.params, "log_variances": learned})
    assert largest_difference(objective.init(key, both, given).params, given.params) == 0


def test_names_that_are_taken_raise(key, setting):
    own, both, objective, variables = setting
    with pytest.raises(ValueError, match="a task is called 'log_variances'"):
        jtl.tasks.uncertainty_weighted(log_variances=own["a"])
    other = variables._replace(params={**variables.params, "log_variances": {"a": jnp.zeros(())}})
    with pytest.raises(ValueError, match="not one number for each of"):
        objective.init(key, both, other)
    with pytest.raises(ValueError, match="give tasks"):
        jtl.tasks.uncertainty_weighted()

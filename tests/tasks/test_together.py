"""Several tasks on one backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, normed, top

import jtl
from jtl.metrics.accumulate import total
from jtl.objective import Objective
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.typing import Aux

pytestmark = pytest.mark.whole


def tasks_of(body):
    nets = {name: jtl.network(backbone=body, **{name: top(n)}) for name, n in (("a", 3), ("b", 2))}
    return {name: jtl.finetune(net) for name, net in nets.items()}


def batches():
    return {"a": batch(n=16, seed=1, masked=True), "b": batch(n=8, classes=2, seed=2)}


def test_loss_gradient_metrics_and_statistics_are_those_of_the_tasks_in_order(key):
    own, both = tasks_of(normed(8)), batches()
    objective = jtl.tasks.together({"b": 0.5}, **own)
    variables = objective.init(key, both)
    assert sorted(variables.params) == ["a", "b", "backbone"]

    def loss(params):
        value, aux = objective(params, variables.stats, both, key, 0)
        return total(value), (value, aux)

    def by_hand(params):
        first, aux = own["a"](params, variables.stats, both["a"], key, 0)
        second, last = own["b"](params, aux.stats, both["b"], key, 0)
        return total(first) + 0.5 * total(second), (aux, last)

    (value, (terms, aux)), grads = jax.value_and_grad(loss, has_aux=True)(variables.params)
    (wanted, (one, two)), theirs = jax.value_and_grad(by_hand, has_aux=True)(variables.params)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert largest_difference(grads, theirs) < 1e-6
    assert largest_difference(aux.stats, two.stats) == 0
    assert sorted(terms) == ["a", "b"]
    found = {name: float(mean.value) for name, mean in aux.metrics.items()}
    assert found == {
        "a/accuracy": float(one.metrics["accuracy"].value),
        "b/accuracy": float(two.metrics["accuracy"].value),
    }


def test_the_backbone_is_that_of_the_first_task_and_given_parts_stay(key):
    own, both = tasks_of(dense(8)), batches()
    alone = own["a"].init(key, both["a"])
    found = jtl.tasks.together(**own).init(key, both)
    for name in ("backbone", "a"):
        jax.tree.map(np.testing.assert_array_equal, found.params[name], alone.params[name])
    ones = jtl.Variables({"backbone": jax.tree.map(jnp.ones_like, alone.params["backbone"])}, {})
    found = jtl.tasks.together(**own).init(key, both, ones)
    jax.tree.map(np.testing.assert_array_equal, found.params["backbone"], ones.params["backbone"])


def test_every_task_commits(key):
    def counting(name):
        def loss(params, stats, batch, key, step):
            return params["w"] ** 2, Aux(stats)

        return Objective(loss, commit=lambda stats, params: {**stats, name: stats[name] + 1})

    objective = jtl.tasks.together(a=counting("a"), b=counting("b"))
    step = jtl.make_step(objective, optax.sgd(0.1))
    state = step.init(jtl.Variables({"w": jnp.ones(())}, {"a": jnp.zeros(()), "b": jnp.zeros(())}), key)
    for _ in range(3):
        state, _ = jax.jit(step)(state, {"a": {"x": jnp.zeros(1)}, "b": {"x": jnp.zeros(1)}})
    assert (float(state.stats["a"]), float(state.stats["b"])) == (3.0, 3.0)


@pytest.mark.slow
@pytest.mark.compiling
def test_two_data_sets_are_learned_judged_resumed_and_predicted(key, tmp_path):
    own, both = tasks_of(dense(32, 16)), {"a": batch(n=16, seed=1), "b": batch(n=8, classes=2, seed=2)}
    sets = {
        name: jtl.data.arrays(rows["x"], rows["y"], batch_size=8, shuffle=name == "a") for name, rows in both.items()
    }
    data, objective = jtl.data.several(**sets), jtl.tasks.together(**own)
    step = jtl.make_step(objective, optax.adam(2e-2))
    state = step.init(objective.init(key, data[0]), key)
    whole = jtl.fit(step, state, data, steps=150, progress=False)
    for steps in (147, 150):
        saved = jtl.Checkpoints(tmp_path / "run", every=147)
        resumed = jtl.fit(step, state, data, steps=steps, progress=False, checkpoints=saved)
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(s.params) for s in (whole.state, resumed.state)))
    trained = jtl.variables(whole.state)
    found = jtl.evaluate(objective, trained, data)
    # Labels are random: chance is log 3 + log 2 = 1.8, and no constant learns sixteen labels by heart.
    assert found["loss"] < 0.2 < 1.5 < whole.history[0]["loss"]
    assert found["a/accuracy"] == found["b/accuracy"] == 1.0
    for name, classes in (("a", 3), ("b", 2)):
        net = jtl.network(backbone=dense(32, 16), **{name: top(classes)})
        ordered = jtl.data.arrays(both[name]["x"], batch_size=8, shuffle=False)
        np.testing.assert_array_equal(jtl.predict(net, trained, ordered).argmax(1), both[name]["y"])


def test_neither_microbatches_nor_devices_change_a_step(key):
    objective, both = jtl.tasks.together({"a": 2.0}, **tasks_of(dense(8))), batches()
    variables, found = objective.init(key, both), {}
    one = mesh(devices=jax.devices()[:1])
    for name, (microbatch, grid) in {"whole": (1, one), "parts": (2, one), "devices": (1, mesh())}.items():
        step = jtl.make_step(objective, optax.sgd(0.1), microbatch=microbatch)
        run, state = jit_step(step, step.init(variables, key), grid)
        state, metrics = run(state, put_batch(both, grid))
        found[name] = jax.device_get((state.params, metrics))
    assert largest_difference(found["whole"], found["parts"]) < 1e-6
    assert largest_difference(found["whole"], found["devices"]) < 1e-6


def test_no_tasks_and_weights_of_others_are_refused():
    with pytest.raises(ValueError, match=r"weights of \['c'\] for the tasks \['a', 'b'\]"):
        jtl.tasks.together({"c": 1.0}, **tasks_of(dense(8)))
    with pytest.raises(ValueError, match="give tasks"):
        jtl.tasks.together()

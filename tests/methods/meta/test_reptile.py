"""Reptile against its loop by hand, and the memory that it keeps across tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot, quadratic, quadratic_tasks
from nets import largest_difference, parts

from jtl import ops
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.chained import chained
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import meta
from jtl.methods.meta.prototypes import prototypes
from jtl.methods.meta.reptile import reptile
from jtl.methods.meta.update_rules import fixed_rate, from_optax, learned_rate
from jtl.metrics.accumulate import total
from jtl.model import Variables, cast_floating
from jtl.params import select
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.loop import fit
from jtl.train.step import make_step
from jtl.typing import Aux

ADAM = optax.adam(0.01, b1=0.0)


def test_its_gradient_is_the_way_back_and_of_one_step_the_rate_times_the_gradient(key):
    """On quadratics: mean_t (θ − θ_K) with θ_K = b + (I − αA)^K (θ − b); for K = 1 it is α A (θ − b)."""
    with jax.enable_x64(True):
        rows, theta = quadratic_tasks()
        support = {"support": jax.tree.map(jnp.asarray, rows["support"])}
        for steps in (1, 3):
            objective = reptile(adapt_to(quadratic, fixed_rate(0.1), steps=steps))
            loss, aux = objective({"w": jnp.asarray(theta)}, {}, support, key, 0)
            found = jax.jit(jax.grad(lambda w, o=objective: total(o({"w": w}, {}, support, key, 0)[0])))(
                jnp.asarray(theta)
            )
            a, b = rows["support"]["A"], rows["support"]["b"]
            if steps == 1:
                expected = 0.1 * np.einsum("tij,tj->ti", a, theta - b)
            else:
                ends = b + np.einsum("tij,tj->ti", np.linalg.matrix_power(np.eye(4) - 0.1 * a, steps), theta - b)
                expected = theta - ends
            np.testing.assert_allclose(found, expected.mean(0), rtol=1e-13)
            lengths = np.linalg.norm(expected, axis=1)
            np.testing.assert_allclose(total(loss), (lengths**2).mean() / 2, rtol=1e-13)
            np.testing.assert_allclose(aux.metrics["distance"].value, lengths.mean(), rtol=1e-13)
        learned = reptile(adapt_to(quadratic, learned_rate(0.1), steps=3))
        params = learned.init(key, support, Variables({"w": jnp.asarray(theta)}, {})).params
        slopes = jax.jit(jax.grad(lambda p: total(learned(p, {}, support, key, 0)[0])))(params)
        np.testing.assert_allclose(slopes["w"], expected.mean(0), rtol=1e-6)  # the rate is of 32 bits
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(slopes["rule"]))


def test_each_task_draws_its_own(key):
    def noisy(params, stats, batch, key, step):
        return params["w"] @ jax.random.normal(key, (4,)), Aux(stats, {})

    rows, theta = quadratic_tasks()
    objective = reptile(adapt_to(noisy, fixed_rate(0.1), steps=1))
    _, aux = objective({"w": jnp.asarray(theta, jnp.float32)}, {}, {"support": rows["support"]}, key, 0)
    assert len(np.unique(aux.outputs["distance"])) == len(rows["support"]["b"])


def kept(net):
    return adapt_to(finetune(net), from_optax(ADAM), steps=2, order=1, across_tasks=True)


def test_the_inner_optimizer_goes_on_from_task_to_task(key):
    """Two steps of training over four tasks each, against a loop with one Adam state."""
    rows = {"support": few_shot()["support"]}
    net, _, variables = parts(key, rows["support"]["x"][0])
    objective = reptile(kept(net))
    step = make_step(objective, optax.sgd(0.5))
    state = step.init(objective.init(key, rows, variables), key)
    update = jax.jit(step)
    for _ in range(2):
        state, _ = update(state, rows)

    @jax.jit
    def inner(params, opt, support):
        grads = jax.jit(jax.grad(lambda p: total(finetune(net)(p, {}, support, key, 0)[0])))(params)
        updates, opt = ADAM.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    params, opt = variables.params, ADAM.init(variables.params)
    for _ in range(2):
        ends = []
        for t in range(4):
            fast = params
            for _ in range(2):
                fast, opt = inner(fast, opt, jax.tree.map(lambda a, t=t: a[t], rows["support"]))
            ends.append(fast)
        params = jax.tree.map(lambda p, *e: p + 0.5 * (sum(e) / 4 - p), params, *ends)
    assert largest_difference(state.params, params) < 1e-5
    assert int(state.stats["inner"]["0.count"]) == 16
    # Other tasks are judged from that memory, and leave it as it is.
    both = few_shot(seed=50)
    found = meta(kept(net), finetune(net))(state.params, state.stats, both, key, 0)[1]
    assert found.stats is state.stats


def test_without_a_memory_the_order_of_tasks_does_not_matter(key):
    rows = few_shot()["support"]
    net, _, variables = parts(key, rows["x"][0])
    for objective, same in (
        (reptile(adapt_to(finetune(net), from_optax(ADAM), steps=2)), True),
        (reptile(kept(net)), False),
    ):
        params, stats = objective.init(key, {"support": rows}, variables)

        @jax.jit
        def loss(rows, objective=objective, params=params, stats=stats):
            return objective(params, stats, {"support": rows}, key, 0)[0].total

        forwards, backwards = loss(rows), loss({n: v[::-1] for n, v in rows.items()})
        assert (abs(forwards / backwards - 1) < 1e-5) == same


def test_in_half_precision_small_ways_are_not_rounded_away(key):
    """Inner steps of 1e-3 in bfloat16 move as in float32 up to the rounding of gradients; rounded, most come back."""
    rows = {"support": few_shot()["support"]}
    net, _, variables = parts(key, rows["support"]["x"][0])
    objective = reptile(adapt_to(finetune(net), fixed_rate(1e-3), steps=3))
    ways = []
    for dtype in (None, jnp.bfloat16):
        step = make_step(objective, optax.sgd(1.0), dtype=dtype)
        state, _ = jax.jit(step)(step.init(variables, key), rows)
        moved = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, variables.params)
        ways.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)]))
    assert np.linalg.norm(ways[1] - ways[0]) < 0.05 * np.linalg.norm(ways[0])
    closed = reptile(chained(prototypes(net), adapt_to(finetune(net), fixed_rate(1e-3), steps=1)))
    with pytest.raises(ValueError, match=r"parameters in bfloat16, .* compute in float32"):
        closed(cast_floating(variables.params, jnp.bfloat16), {}, rows, key, 0)


def test_parameters_of_inner_steps_are_refused(key):
    rows = {"support": few_shot()["support"]}
    net, _, variables = parts(key, rows["support"]["x"][0])
    adapt = adapt_to(finetune(net), fixed_rate(0.1), steps=2, per_step=select("head/.*/bias"))
    support = {n: v[0] for n, v in rows["support"].items()}
    made, objective = adapt.init(key, support, variables), reptile(adapt)
    for use in (lambda: objective.init(key, rows, variables), lambda: objective(*made, rows, key, 0)):
        with pytest.raises(ValueError, match=r"hold \['head/out/bias'\] for each step .* leave per_step None"):
            use()


def test_bad_options_are_refused(key):
    rows = {"support": few_shot()["support"]}
    net, _, variables = parts(key, rows["support"]["x"][0])
    with pytest.raises(ValueError, match="this update rule has no memory to keep"):
        adapt_to(finetune(net), fixed_rate(0.1), steps=1, across_tasks=True).init(
            key, {n: v[0] for n, v in rows["support"].items()}
        )
    with pytest.raises(ValueError, match="hold no 'inner'"):
        kept(net)(variables.params, {}, rows["support"], key)
    objective = reptile(kept(net), spread=2)
    with pytest.raises(ValueError, match="leave spread None"):
        objective(*objective.init(key, rows, variables), rows, key, 0)
    objective = reptile(kept(net))
    start = objective.init(key, rows, variables)
    with pytest.raises(ValueError, match="tasks needs them in order: leave spread None, and use jit_step"):
        jax.pmap(lambda rows: objective(*start, rows, key, 0)[0], axis_name=ops.BATCH_AXIS)(
            jax.tree.map(lambda a: a[None], rows)
        )
    with pytest.raises(ValueError, match="spread=0"):
        reptile(kept(net), spread=0)


def test_a_batch_without_a_support_set_is_refused(key):
    net, _, variables = parts(key, Tasks()[0]["support"]["x"][0])
    objective = reptile(kept(net))
    for use in (lambda: objective.init(key, {"query": {}}), lambda: objective(*variables, {"query": {}}, key, 0)):
        with pytest.raises(ValueError, match=r"needs a set 'support'; the batch has \['query'\]"):
            use()


def test_a_run_resumes_with_the_inner_optimizers_moments(key, tmp_path):
    """On eight devices, four steps, and two by two through a checkpoint, end with the same bits, of the moments too."""
    data = Tasks()
    net, _, variables = parts(key, data[0]["support"]["x"][0])
    objective = reptile(kept(net))
    step = make_step(objective, optax.sgd(0.5))

    def state():
        return step.init(objective.init(key, data[0], variables), key)

    whole = fit(step, state(), data, steps=4, progress=False).state
    for steps in (2, 4):
        again = fit(step, state(), data, steps=steps, checkpoints=Checkpoints(tmp_path), progress=False).state
    jax.tree.map(np.testing.assert_array_equal, again.stats, whole.stats)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert int(again.stats["inner"]["0.count"]) == 4 * 8 * 2


class Tasks:
    classes = None

    def __len__(self):
        return 4

    def __getitem__(self, step):
        return {"support": few_shot(tasks=8, seed=100 * step)["support"]}

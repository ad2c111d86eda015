"""Turns over groups of parameters, phases that share one state, and what is committed once a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, normed, parts, top

from jtl import backbones
from jtl.methods.finetune.finetune import finetune
from jtl.model import Variables
from jtl.networks import network
from jtl.objective import Objective
from jtl.params import flatten, select
from jtl.train.loop import fit
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step
from jtl.train.turns import Phase, Turn
from jtl.typing import Aux

GROUPS = [select("backbone/.*"), select("head/.*")]


def pull(name, towards):
    """Half the squared distance of one parameter to another: its gradient is the distance."""

    def loss(params, stats, batch, key, step):
        del batch, key, step
        return (params[name]["w"] - jax.lax.stop_gradient(params[towards]["w"])) ** 2 / 2, Aux(stats)

    return loss


def numbers(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_turns_share_the_optimizer_state_of_their_groups(key):
    """Maximum classifier discrepancy: three phases of a step, the encoder's moved four times, each state kept once."""
    encoder, heads_of = jnp.zeros((130, 128)), jnp.zeros((128, 1))
    variables = Variables({"backbone": {"w": encoder}, "head": {"a": heads_of, "b": heads_of}}, {})

    def loss(params, stats, batch, key, step):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(params)), Aux(stats)

    turns = [Turn(loss, by=(0, 1)), Turn(loss, by=(1,)), Turn(loss, by=(0,), repeat=4)]
    step = make_step(turns, [optax.adam(1e-3), optax.adam(1e-3)], trainable=GROUPS)
    state = step.init(variables, key)
    trained = numbers(variables.params)
    assert numbers(state.opt) == 2 * trained + 2, "two moments of each parameter, and a count for each group"
    state, _ = jax.jit(step)(state, {"x": np.zeros(1)})
    counts = [int(opt[0].count) for opt in state.opt]
    assert counts == [5, 2], "the encoder moved once with the heads and four times alone"


def test_a_repeated_turn_is_as_many_turns_in_a_row(key):
    variables = Variables({"a": {"w": jnp.asarray(2.0)}, "b": {"w": jnp.asarray(6.0)}}, {})
    groups = [select("a/.*"), select("b/.*")]
    repeated = make_step([Turn(pull("a", "b"), by=(0,), repeat=3)], [optax.sgd(0.5)] * 2, trainable=groups)
    state, metrics = jax.jit(repeated)(repeated.init(variables, key), {"x": np.zeros(1)})
    assert float(state.params["a"]["w"]) == 6 - 4 * 0.5**3
    assert float(state.params["b"]["w"]) == 6.0
    assert float(metrics["loss"]) == (4 * 0.5**2) ** 2 / 2, "the metrics of the last"


def test_turns_are_named_in_the_metrics(key):
    variables = Variables({"a": {"w": jnp.asarray(2.0)}, "b": {"w": jnp.asarray(6.0)}}, {})
    turns = [Turn(pull("a", "b"), by=(0,), name="first"), Turn(pull("b", "a"), by=(1,))]
    step = make_step(turns, [optax.sgd(0.5)] * 2, trainable=[select("a/.*"), select("b/.*")])
    _, metrics = step(step.init(variables, key), {"x": np.zeros(1)})
    assert {name: float(value) for name, value in metrics.items()} == {"first/loss": 8.0, "1/loss": 2.0, "loss": 10.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Turn(pull("a", "b"), by=()), r"by=\(\)"),
        (lambda: Turn(pull("a", "b"), repeat=0), "repeat=0"),
        (lambda: Phase(-1, pull("a", "b")), "start=-1"),
        (lambda: make_step([Turn(pull("a", "b"), by=(2,))], optax.sgd(1.0)), "there is no group 2"),
        (lambda: make_step([Phase(1, pull("a", "b"))], optax.sgd(1.0)), "phases start at [1]"),
        (lambda: make_step([pull("a", "b")] * 2, [optax.sgd(1.0)] * 3, trainable=[select(".*")] * 3), "2 objectives"),
    ],
)
def test_impossible_turns_are_refused(make, message):
    with pytest.raises(ValueError, match=message.replace("[1]", r"\[1\]")):
        make()


def test_groups_that_overlap_are_refused_by_path(key):
    step = make_step([pull("a", "b")] * 2, [optax.sgd(1.0)] * 2, trainable=[select("a/.*"), select(".*")])
    with pytest.raises(ValueError, match="'a/w' is of groups 0 and 1"):
        step.init(Variables({"a": {"w": jnp.zeros(())}, "b": {"w": jnp.zeros(())}}, {}), key)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (1e-3, "tx=0.001 is no optimizer: give one of optax"),
        ("adam", "tx='adam'"),
        (optax.MultiSteps(optax.sgd(1.0), 2), r"give its .gradient_transformation\(\)"),
    ],
)
def test_what_is_no_optimizer_is_named(given, message):
    with pytest.raises(TypeError, match=message):
        make_step(pull("a", "b"), given)


def test_what_is_no_state_to_start_from_is_named(key):
    step = make_step(pull("a", "b"), optax.sgd(1.0))
    with pytest.raises(TypeError, match="variables is a dict"):
        step.init({"a": {}}, key)
    with pytest.raises(TypeError, match="key is 0"):
        step.init(Variables({"a": {"w": jnp.zeros(())}}, {}), 0)


class Rows:
    """As many batches as are asked for, each a function of its number."""

    def __len__(self):
        return 4

    def __getitem__(self, step):
        return batch(n=16, seed=step)


def run(step, state, steps, **options):
    return fit(step, state, Rows(), steps=steps, mesh=mesh(devices=jax.devices()[:1]), progress=False, **options).state


def test_phases_are_the_separate_programs_to_the_bit(key):
    """A probe, then fine-tuning: the body keeps its bits and its optimizer is untouched until its phase."""
    net, _, variables = parts(key, Rows()[0]["x"])
    objective, txs = finetune(net), [optax.adam(1e-2), optax.adam(1e-3)]
    probe, tune = Turn(objective, by=(1,)), Turn(objective, by=(0, 1))
    phased = make_step([Phase(0, probe), Phase(3, tune)], txs, trainable=GROUPS)
    start = phased.init(variables, key)
    between = run(phased, start, 3)
    jax.tree.map(np.testing.assert_array_equal, between.params["backbone"], variables.params["backbone"])
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(between.opt[0])), "moments and count are 0"
    whole = run(phased, start, 6)

    first = run(make_step(probe, txs, trainable=GROUPS), start, 3)
    alone = make_step(tune, txs, trainable=GROUPS)
    apart = run(alone, first, 6)
    jax.tree.map(np.testing.assert_array_equal, whole._replace(key=0), apart._replace(key=0))
    assert largest_difference(whole.params["backbone"], between.params["backbone"]) > 0


def test_a_step_of_phases_is_chosen_by_the_host():
    step = make_step([Phase(0, pull("a", "b")), Phase(5, pull("b", "a"))], optax.sgd(1.0))
    assert step.at(4) is step.phases[0][1]
    assert step.at(5) is step.phases[1][1]
    with pytest.raises(ValueError, match=r"phases from \[0, 5\]"):
        step.update  # noqa: B018  (the access is the test)


def teacher(net, decay=0.9):
    """A moving average of the weights in the statistics, moved once a step from float32 parameters."""
    inner = finetune(net)

    def loss(params, stats, batch, key, step):
        value, aux = inner(params, {k: v for k, v in stats.items() if k != "teacher"}, batch, key, step)
        return value, aux._replace(stats={**aux.stats, "teacher": stats["teacher"]})

    def commit(stats, params):
        moved = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, stats["teacher"], params["head"])
        return {**stats, "teacher": moved}

    return Objective(loss, commit=commit)


def teachers_after(key, *, dtype=None, microbatch=1, how="one device"):
    net = network(backbone=normed(8), head=top(3))
    rows = batch(n=32)
    variables = net.init(key, rows["x"])
    variables = Variables(variables.params, {**variables.stats, "teacher": variables.params["head"]})
    step = make_step(teacher(net), optax.sgd(0.5), microbatch=microbatch, dtype=dtype)
    state = step.init(variables, key)
    if how == "pmap":
        state, _ = pmap_step(step)(replicated(state), split_batch(rows))
        state = unreplicated(state)
    else:
        grid = mesh(devices=jax.devices()[: 8 if how == "eight devices" else 1])
        run, state = jit_step(step, state, grid)
        state, _ = run(state, put_batch(rows, grid))
    expected = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, variables.params["head"], state.params["head"])
    return state.stats["teacher"], expected


WAYS = [(1, "one device"), (2, "one device"), (4, "one device"), (1, "eight devices"), (1, "pmap")]


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize(("microbatch", "how"), WAYS)
def test_a_teacher_moves_once_a_step_from_full_precision(key, dtype, microbatch, how):
    moved, expected = teachers_after(key, dtype=dtype, microbatch=microbatch, how=how)
    assert largest_difference(moved, expected) < 1e-7, "one rounding of float32: it moved once, and not in bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype("float32")}


def test_a_commit_that_changes_the_tree_is_refused(key):
    objective = Objective(pull("a", "b"), commit=lambda stats, params: {})
    step = make_step(objective, optax.sgd(1.0))
    state = step.init(Variables({"a": {"w": jnp.zeros(())}, "b": {"w": jnp.zeros(())}}, {"seen": jnp.zeros(2)}), key)
    with pytest.raises(AssertionError, match="commit"):
        step(state, {"x": np.zeros(1)})


def test_which_parameters_train_is_told_by_path(key):
    step = make_step(pull("a", "b"), optax.sgd(1.0), trainable=select("a/.*"))
    params = {"a": {"w": jnp.zeros(())}, "b": {"w": jnp.zeros(())}}
    assert step.trains(params) == {"a/w": True, "b/w": False} == dict.fromkeys(flatten(params), False) | {"a/w": True}


def test_gradual_unfreezing_trains_a_group_more_in_each_phase(key):
    order = ["head", "backbone/stage2", "backbone/stage1"]
    net = network(backbone=backbones.mlp((4, 4)), head=top(3))
    objective, rows = (
        finetune(net),
        {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3), "y": np.arange(8) % 3},
    )
    phases = [Phase(2 * i, Turn(objective, by=tuple(range(i + 1)))) for i in range(3)]
    step = make_step(phases, [optax.adam(1e-2)] * 3, trainable=[select(f"{part}/.*") for part in order])
    start = objective.init(key, rows)

    def moved(steps):
        made = fit(step, step.init(start, key), [rows] * 6, steps=steps, progress=False).state
        before, after = flatten(start.params), flatten(made.params)
        changed = [path for path in after if not np.array_equal(before[path], after[path])]
        return {part for part in order if any(path.startswith(f"{part}/") for path in changed)}

    for phase in range(3):
        assert moved(2 * phase + 2) == set(order[: phase + 1])

"""Frozen means frozen: running statistics of modules of which no parameter is trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot
from flax import nnx
from nets import batch, normed, top

import jtl
from jtl.backbones.resnet.network import resnet
from jtl.methods.finetune.features import features
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.methods.meta.implicit import implicit
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import meta
from jtl.methods.meta.multi_step import multi_step
from jtl.methods.meta.prototypes import prototypes
from jtl.methods.meta.reptile import reptile
from jtl.methods.meta.update_rules import fixed_rate, from_optax
from jtl.model import from_linen, from_nnx
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.evaluate import evaluate
from jtl.train.step import make_step
from jtl.train.turns import Phase, Turn

NET = network(backbone=normed(8), head=top(3))
BATCH = batch()
KEY = jax.random.key(0)


def trained(net, trainable, rows=BATCH, steps=3, **options):
    objective = finetune(net)
    step = make_step(objective, optax.sgd(0.1), trainable=trainable, **options)
    before = step.init(objective.init(KEY, rows), KEY)
    state, update = before, jax.jit(step)
    for _ in range(steps):
        state, _ = update(state, rows)
    return before, state


def moved(before, after):
    before, after = flatten(before), flatten(after)
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_a_frozen_networks_evaluation_does_not_change():
    """A rate of zero on a frozen backbone: the loss in evaluation is the same after any number of steps."""
    objective = finetune(NET)
    step = make_step(objective, optax.sgd(0.0), trainable=select("head/.*"))
    state = step.init(objective.init(KEY, BATCH), KEY)
    data = jtl.data.arrays(BATCH["x"], BATCH["y"], batch_size=8, classes=3, shuffle=False)
    found = [evaluate(evaluation(NET), jtl.variables(state), data)["loss"]]
    for _ in range(30):
        state, _ = jax.jit(step)(state, BATCH)
    found.append(evaluate(evaluation(NET), jtl.variables(state), data)["loss"])
    assert found[0] == found[1]


def test_a_head_on_a_frozen_backbone_trains_as_features_does():
    """Two paths: the objective that runs the backbone in evaluation, and the step that finds it frozen."""
    _, one = trained(NET, select("head/.*"))
    objective = features(NET)
    step = make_step(objective, optax.sgd(0.1), trainable=select("head/.*"))
    two = step.init(objective.init(KEY, BATCH), KEY)
    for _ in range(3):
        two, _ = jax.jit(step)(two, BATCH)
    jax.tree.map(np.testing.assert_array_equal, (one.params, one.stats), (two.params, two.stats))


@pytest.mark.parametrize("options", [{}, {"microbatch": 2}, {"dtype": jnp.bfloat16}], ids=str)
def test_stages_that_are_trained_move_their_statistics_alone(options):
    net = network(backbone=resnet((1, 1), stem="cifar", bottleneck=False, width=4), head=top(3))
    rows = {"x": np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32), "y": np.arange(8) % 3}
    before, after = trained(net, select("backbone/stage2/.*", "head/.*"), rows, **options)
    found = moved(before.stats, after.stats)
    assert found == {path for path in flatten(before.stats) if path.startswith("backbone/stage2/")}
    assert {path.split("/")[1] for path in moved(before.params, after.params)} == {"stage2", "out"}


def test_what_is_all_trained_runs_as_before():
    before, after = trained(NET, None)
    assert moved(before.stats, after.stats) == set(flatten(before.stats))


def test_training_mode_can_be_asked_for():
    before, after = trained(NET, select("head/.*"), frozen="training")
    assert moved(before.stats, after.stats) == set(flatten(before.stats))
    assert moved(before.params, after.params) == {"head/out/kernel", "head/out/bias"}
    with pytest.raises(ValueError, match="frozen='no'"):
        make_step(finetune(NET), optax.sgd(0.1), frozen="no")


def test_what_another_phase_trains_is_frozen():
    objective = finetune(NET)
    phases = [Phase(0, Turn(objective, by=(0,))), Phase(2, Turn(objective, by=(0, 1)))]
    masks = [select("head/.*"), select("backbone/.*")]
    step = make_step(phases, [optax.sgd(0.1), optax.sgd(0.1)], trainable=masks)
    first = step.init(objective.init(KEY, BATCH), KEY)
    second, _ = jax.jit(step.at(0))(first, BATCH)
    assert not moved(first.stats, second.stats)
    third, _ = jax.jit(step.at(2))(second, BATCH)
    assert moved(second.stats, third.stats) == set(flatten(first.stats))


INNER = finetune(NET)
HEAD = adapt_to(INNER, fixed_rate(0.1), steps=2, adapted=select("head/.*"))
KEPT = adapt_to(INNER, from_optax(optax.adam(0.1)), steps=2, order=1, across_tasks=True)
OVER_TASKS = {
    "one after the other": meta(HEAD, INNER, spread="scan"),
    "side by side": meta(HEAD, INNER, spread="vmap"),
    "prototypes": meta(prototypes(NET), INNER),
    "implicit": meta(implicit(INNER, fixed_rate(0.1), steps=2, strength=1.0, solves=2), INNER),
    "multi-step": multi_step(HEAD, INNER, lambda step: jnp.full(2, 0.5)),
    "reptile": reptile(HEAD),
    "reptile with a memory": reptile(KEPT),
}


@pytest.mark.parametrize("name", OVER_TASKS)
def test_what_is_frozen_does_not_change_how_a_task_is_adapted_to(name):
    """After training nobody knows it: a step with a frozen norm has the loss and the gradient of one without."""
    rows, objective = few_shot(tasks=3), OVER_TASKS[name]
    start, found = objective.init(KEY, rows), []
    for trainable in (select(".*"), select("backbone/layer/.*", "head/.*")):
        step = make_step(objective, optax.sgd(0.5), trainable=trainable)
        state, metrics = jax.jit(step)(step.init(start, KEY), rows)
        learned = {path: leaf for path, leaf in flatten(state.params).items() if "norm" not in path}
        found.append((metrics["loss"], learned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)


def test_the_loss_of_a_meta_step_is_that_of_evaluation():
    rows, objective = few_shot(), OVER_TASKS["one after the other"]
    step = make_step(objective, optax.sgd(0.0), trainable=select("head/.*"))
    state, metrics = jax.jit(step)(step.init(objective.init(KEY, rows), KEY), rows)
    np.testing.assert_allclose(metrics["loss"], evaluate(objective, jtl.variables(state), [rows])["loss"], rtol=1e-5)


class Flax(nn.Module):
    """Flax's own layers: BatchNorm told by an attribute, and by an argument; dropout."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="one")(nn.Dense(6, name="dense")(x))
        x = nn.BatchNorm(name="two")(x, use_running_average=not train)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return {"pooled": x, "last": nn.Dense(4, name="last")(x)}


def test_flaxs_own_layers_are_told():
    net = network(backbone=from_linen(Flax()), head=top(3))
    before, after = trained(net, select("head/.*"))
    assert not moved(before.stats, after.stats)
    before, after = trained(net, select("head/.*", "backbone/(last|two)/.*"))
    assert {path.split("/")[1] for path in moved(before.stats, after.stats)} == {"two"}


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.norm = nnx.Linear(5, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)

    def __call__(self, x):
        return {"pooled": self.norm(self.dense(x))}


def test_nnx_modules_are_told():
    net = network(backbone=from_nnx(lambda rngs: Nnx(rngs)), head=top(3))
    before, after = trained(net, select("head/.*"))
    assert not moved(before.stats, after.stats)
    before, after = trained(net, select("head/.*", "backbone/norm/.*"))
    assert moved(before.stats, after.stats)

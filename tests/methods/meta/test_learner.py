"""A learner against adapting by hand; its compiled programs, modes and refusals."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from few_shot import few_shot, tasks_of
from nets import normed, top

from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.learned_optimizer import learned_optimizer
from jtl.methods.meta.learner import learner
from jtl.methods.meta.maml import maml
from jtl.methods.meta.memory import matching, memorise
from jtl.methods.meta.prototypes import prototypes
from jtl.methods.meta.ridge import ridge
from jtl.methods.meta.update_rules import fixed_rate, learned_rate
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.loop import fit
from jtl.train.parallel.sharding import mesh
from jtl.train.state import variables as learned
from jtl.train.step import make_step

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def trained():
    net = network(backbone=normed(8), head=top(3))
    adapt = adapt_to(finetune(net), learned_rate(0.2), steps=3)
    supports, queries = (tasks_of(half) for half in few_shot().values())
    return net, adapt, adapt.init(jax.random.key(0), supports[0]), supports, queries


@pytest.mark.parametrize("transductive", [False, True])
def test_it_predicts_with_the_adapted_network(trained, transductive):
    net, adapt, variables, supports, queries = trained
    learn = learner(net, adapt, variables, transductive=transductive)
    first, second = (learn(support) for support in supports[:2])
    for support, predict in zip(supports[:2], (first, second), strict=True):
        fast = Variables(*adapt(variables.params, variables.stats, support, jax.random.key(0)))
        x = queries[0]["x"]
        expected = net.apply(fast, x, train=transductive)[0].output
        np.testing.assert_allclose(predict(x), expected, rtol=1e-4, atol=1e-5)
        alone = np.concatenate([predict(x[:4]), predict(x[4:])])
        assert np.allclose(alone, expected, atol=1e-4) != transductive, "a query depends on those beside it, or not"


def test_two_tasks_of_one_shape_are_one_program(trained):
    net, adapt, variables, supports, queries = trained
    traces = []

    def counted(variables, x, *, train, key=None):
        traces.append(None)
        return net.apply(variables, x, train=train, key=key)

    learn = learner(net._replace(apply=counted), adapt, variables)
    for support in supports:
        learn(support)(queries[0]["x"])
    assert len(traces) <= 3, "one for the shapes of outputs, of the support set and of queries"


def test_what_is_wrong_with_a_support_set_is_said(trained):
    net, adapt, variables, supports, _ = trained
    learn = learner(net, adapt, variables)
    wrong = {**supports[0], "y": supports[0]["y"] + 1}
    with pytest.raises(ValueError, match=r"run from .* to 3, and this network has 3 outputs: number a task's classes"):
        learn(wrong)
    learn({**wrong, "mask": wrong["y"] < 3})  # a row that does not count may have any label
    with pytest.raises(ValueError, match="no rows"):
        learn({"x": np.zeros((0, 5), np.float32), "y": np.zeros(0, np.int32)})
    rows = len(wrong["y"])
    for none in ({"mask": np.zeros(rows, bool)}, {"mask": np.arange(rows) < 2, "weights": np.arange(rows) > 2}):
        with pytest.raises(ValueError, match=f"{rows} rows of which mask and weights keep none"):
            learn({**supports[0], **none})


def _adapting(name, key):
    """A learner of two classes that adapts in this way, and three rows."""
    net = network(backbone=normed(8), head=matching(0.1) if name == "memorise" else top(2))
    ways = {"prototypes": prototypes, "ridge": ridge, "memorise": partial(memorise, way=2)}
    adapt = ways[name](net) if name in ways else adapt_to(finetune(net), fixed_rate(0.1), steps=1)
    x = jax.random.normal(key, (3, 5))
    return learner(net, adapt, adapt.init(key, {"x": x, "y": jnp.zeros(3, int)})), x


@pytest.mark.parametrize("name", ["prototypes", "ridge", "memorise", "adapt_to"])
def test_labels_that_are_not_one_a_row_are_named(name, key):
    """Of two labels for three rows jax said that a product of matrices does not fit."""
    learn, x = _adapting(name, key)
    for rows in (1, 2, 4):
        with pytest.raises(ValueError, match=rf"x of the support set has the shape \(3, 5\), .* y \({rows},\): give"):
            learn({"x": x, "y": np.zeros(rows, int)})
    assert learn({"x": x, "y": np.array([0, 1, 1], np.uint8)})(x).shape == (3, 2)


@pytest.mark.parametrize("name", ["prototypes", "ridge", "memorise"])
def test_labels_that_are_no_classes_are_named_where_classes_are_read(name, key):
    """Floats were taken for classes."""
    learn, x = _adapting(name, key)
    for y in (np.array([0.0, 1.0, 1.0], np.float32), np.zeros((3, 1), np.int32), np.array([True, False, True])):
        with pytest.raises(ValueError, match=re.escape(f"have the shape {y.shape} and the dtype {y.dtype}: this")):
            learn({"x": x, "y": y})


def test_rows_of_several_arrays_are_counted_by_name(trained):
    net, adapt, variables, supports, _ = trained
    x = {"ids": supports[0]["x"], "mask": supports[0]["x"][:2]}
    with pytest.raises(ValueError, match=r"x\['mask'\] of the support set has the shape \(2, 5\)"):
        learner(net, adapt, variables)({"x": x, "y": supports[0]["y"]})


def test_a_regression_has_labels_of_floats(key):
    net = network(backbone=normed(8), head=top(1))
    inner = finetune(net, lambda outputs, y: jnp.square(outputs - y).mean(-1), metrics={})
    x, adapt = jax.random.normal(key, (6, 5)), adapt_to(inner, fixed_rate(0.1), steps=2)
    y = np.asarray(x[:, :1])
    variables = adapt.init(key, {"x": x, "y": y})
    assert np.isfinite(learner(net, adapt, variables)({"x": x, "y": y})(x)).all()
    with pytest.raises(ValueError, match=r"shape \(6, 5\), and its labels y \(4, 1\)"):
        learner(net, adapt, variables)({"x": x, "y": y[:4]})


def test_support_sets_of_other_sizes_and_heads_with_a_memory(key):
    net = network(backbone=normed(8), head=matching(0.1))
    x = jax.random.normal(key, (9, 5))
    variables = net.init(key, x)
    learn = learner(net, memorise(net, way=3, train=False), variables)
    for n in (9, 6):
        predict = learn({"x": x[:n], "y": jnp.arange(n) % 3})
        assert predict(x[:3]).argmax(1).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="this network has 2 outputs"):
        learner(net, memorise(net, way=2, train=False), variables)({"x": x, "y": jnp.arange(9) % 3})


def test_a_trained_rule_is_saved_with_the_network_and_adapts(tmp_path):
    """From a checkpoint, with the rule as training left it: the predictions of the state in memory, to the bit."""
    net, rule = network(backbone=normed(8), head=top(3)), learned_optimizer(0.1, width=3)
    objective = maml(finetune(net), rule, steps=2)
    rows = few_shot()
    step = make_step(objective, optax.adam(1e-2))
    start = objective.init(jax.random.key(0), rows)
    saver = Checkpoints(tmp_path / "run")
    result = fit(
        step,
        step.init(start, jax.random.key(1)),
        [rows, rows],
        steps=2,
        checkpoints=saver,
        mesh=mesh(devices=jax.devices()[:1]),
        progress=False,
    )
    moved, before = flatten(result.state.params["rule"]), flatten(start.params["rule"])
    assert all(np.abs(np.asarray(moved[path]) - np.asarray(before[path])).max() > 0 for path in before)
    adapt = adapt_to(finetune(net), rule, steps=3)
    support, x = tasks_of(rows["support"])[0], rows["query"]["x"][0]

    @jax.jit
    def predicted(variables):
        fast = Variables(*adapt(variables.params, variables.stats, support, jax.random.key(0)))
        return net.apply(fast, x, train=False)[0].output

    found = predicted(saver.variables())
    np.testing.assert_array_equal(found, predicted(learned(result.state)))
    assert np.abs(np.asarray(found - predicted(start))).max() > 1e-4

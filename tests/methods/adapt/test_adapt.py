"""Views of any number, alignments that own parameters, and several labelled sources."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, parts, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann
from jtl.methods.adapt.entropy import entropy
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import mean, total
from jtl.model import Variables
from jtl.objective import Objective
from jtl.typing import Aux


def views(*names, n=8):
    return {name: batch(n=n + i, seed=i) for i, name in enumerate(names)}


def test_a_bare_function_sees_every_view_with_all_fields_of_its_rows(key):
    rows = views("source", "target", "target_strong")
    rows["source"]["domain"] = np.arange(8) % 2
    net, _, variables = parts(key, rows["source"]["x"])
    seen = {}

    def alignment(params, stats, views, key, step):
        seen.update({name: (view.output.shape, view.features["pooled"].shape) for name, view in views.items()})
        seen["domain"] = views["source"].rows["domain"]
        return {"gap": mean(views["target_strong"].output.sum(1))}, Aux(stats)

    value, _ = adapt(net, alignments=[alignment])(variables.params, {}, rows, key, 0)
    assert seen["source"] == ((8, 3), (8, 8))
    assert seen["target_strong"] == ((10, 3), (10, 8))
    np.testing.assert_array_equal(seen["domain"], np.arange(8) % 2)
    expected = np.asarray(net.apply(variables, rows["target_strong"]["x"], train=False)[0].output).sum(1).mean()
    np.testing.assert_allclose(value["gap"].value, expected, rtol=1e-5)


def test_several_sources_have_a_term_each(key):
    rows = views("first", "second", "target")
    net, _, variables = parts(key, rows["first"]["x"])
    value, aux = adapt(net, labelled=("first", "second"))(variables.params, {}, rows, key, 0)
    for name in ("first", "second"):
        alone, found = finetune(net)(variables.params, {}, rows[name], key, 0)
        np.testing.assert_allclose(value[name].value, total(alone), rtol=1e-6)
        if name == "first":
            np.testing.assert_allclose(aux.metrics["accuracy"].value, found.metrics["accuracy"].value)


def test_critics_are_initialised_on_true_shapes_and_what_is_given_stays(key):
    rows = views("source", "target")
    net, critic, _ = parts(key, rows["source"]["x"])
    objective = adapt(net, alignments=[dann(critic, name="one"), dann(critic, name="two")])
    given = Variables({"one": {"out": {"kernel": jnp.ones((8, 1)), "bias": jnp.ones(1)}}}, {})
    found = objective.init(key, rows, given)
    assert set(found.params) == {"backbone", "head", "one", "two"}
    np.testing.assert_array_equal(found.params["one"]["out"]["kernel"], np.ones((8, 1)))
    wrong = Variables({"one": {"out": {"kernel": jnp.ones((9, 1)), "bias": jnp.ones(1)}}}, {})
    with pytest.raises(ValueError, match=r"'one/out/kernel' is given with shape \(9, 1\).* needs \(8, 1\)"):
        objective.init(key, rows, wrong)


def test_what_alignments_commit_is_committed(key):
    rows = views("source", "target")
    net, _, variables = parts(key, rows["source"]["x"])

    def nothing(params, stats, views, key, step):
        return {"zero": mean(jnp.zeros(1))}, Aux(stats)

    counter = Objective(nothing, commit=lambda stats, params: {**stats, "steps": stats["steps"] + 1})
    objective = adapt(net, alignments=[counter, replace(counter, loss=lambda p, s, v, k, n: ({}, Aux(s)))])
    assert objective.commit({"steps": 0}, variables.params) == {"steps": 2}


def test_alignments_may_be_the_whole_objective(key):
    rows = views("source", "target")
    objective = adapt(parts(key, rows["source"]["x"])[0], alignments=[entropy()], labelled=(), metrics={})
    params, stats = objective.init(key, rows)
    terms, _ = objective(params, stats, rows, key, 0)
    assert list(terms) == ["entropy"]


def test_views_that_are_missing_are_named(key):
    rows = views("source", "target")
    net, _, variables = parts(key, rows["source"]["x"])
    with pytest.raises(ValueError, match="no labels of 'other'"):
        adapt(net, labelled=("other",))(variables.params, {}, rows, key, 0)
    del rows["source"]["y"]
    with pytest.raises(ValueError, match="no labels of 'source'"):
        adapt(net)(variables.params, {}, rows, key, 0)
    with pytest.raises(ValueError, match=r"a batch of \['x'\] holds no views"):
        adapt(net)(variables.params, {}, {"x": np.zeros((2, 5))}, key, 0)


def test_a_critic_reads_what_it_says(key):
    rows = views("source", "target")
    net, _, _ = parts(key, rows["source"]["x"])
    critic = top(1)._replace(reads=top(1).reads.__class__(("last",)))
    found = adapt(net, optax.softmax_cross_entropy_with_integer_labels, [dann(critic)]).init(key, rows)
    assert found.params["critic"]["out"]["kernel"].shape == (8, 1)

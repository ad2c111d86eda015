"""Alignments of named views: the values of the alignment on those rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, normed, parts, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.between import between
from jtl.methods.adapt.coral import coral
from jtl.methods.adapt.dann import dann
from jtl.methods.adapt.lmmd import lmmd
from jtl.methods.adapt.mean_teacher import mean_teacher
from jtl.networks import network
from jtl.params import select
from jtl.train.step import make_step

ROWS = {
    "source": batch(n=12, masked=True),
    "second": batch(n=10, seed=1),
    "target": {"x": 2 * batch(n=8, seed=2)["x"] + 1, "mask": np.arange(8) < 7},
}


@pytest.fixture(scope="module")
def setup():
    net, critic, start = parts(jax.random.key(0), ROWS["source"]["x"], critic=True)
    start = start._replace(params={name: start.params[name] for name in ("backbone", "head")})
    return net, critic, start


def terms_of(net, start, alignments):
    objective = adapt(net, alignments=alignments, labelled=("source", "second"), metrics={})
    variables = objective.init(jax.random.key(1), ROWS, start)
    return variables, objective(variables.params, variables.stats, ROWS, jax.random.key(2), 0)[0]


def covariance(net, start, names):
    """Of the kept rows of some views together, by numpy."""
    kept = [ROWS[n]["x"][ROWS[n].get("mask", np.ones(len(ROWS[n]["x"]), bool))] for n in names]
    return np.cov(net.apply(start, np.concatenate(kept), train=False)[0].features["pooled"], rowvar=False)


@pytest.mark.parametrize(
    ("source", "target"), [("second", "target"), (("source", "second"), "target"), ("source", "second")]
)
def test_coral_is_that_of_numpys_covariances_of_those_rows(setup, source, target):
    net, _, start = setup
    _, terms = terms_of(net, start, [coral(), between(coral(name="other"), source=source, target=target)])
    for name, (a, b) in {"coral": ("source", "target"), "other": (source, target)}.items():
        difference = covariance(net, start, [a] if isinstance(a, str) else a) - covariance(net, start, [b])
        expected = (difference**2).sum() / (4 * difference.shape[0] ** 2)
        np.testing.assert_allclose(terms[name].value, expected, rtol=1e-4)


def test_weights_of_one_of_several_sources_are_those_of_its_rows(setup):
    """A weight of 0 is a mask to a term that reads labels."""
    net, _, start = setup
    objective = adapt(net, alignments=[between(lmmd(), source=("source", "second"))], labelled=("source", "second"))
    kept, found = np.arange(10) % 3 > 0, []
    for field in ("mask", "weights"):
        rows = {**ROWS, "second": {**ROWS["second"], field: kept}}
        found.append(float(objective(start.params, start.stats, rows, jax.random.key(2), 0)[0]["lmmd"].value))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_each_critic_of_its_own_learns_from_its_own_views(setup):
    net, critic, start = setup
    alignments = [between(dann(critic, name=f"critic_{name}"), source=name) for name in ("source", "second")]
    objective = adapt(net, alignments=alignments, labelled=("source", "second"), metrics={})
    variables = objective.init(jax.random.key(1), ROWS, start)
    assert sorted(variables.params) == ["backbone", "critic_second", "critic_source", "head"]
    step = make_step(objective, optax.sgd(0.1), trainable=select("critic_.*"))

    def trained(rows):
        state, _ = jax.jit(step)(step.init(variables, jax.random.key(2)), rows)
        return state.params

    moved = {**ROWS, "second": {**ROWS["second"], "x": ROWS["second"]["x"] + 3}}
    first, second = trained(ROWS), trained(moved)
    np.testing.assert_array_equal(first["critic_source"]["out"]["kernel"], second["critic_source"]["out"]["kernel"])
    assert np.abs(first["critic_second"]["out"]["kernel"] - second["critic_second"]["out"]["kernel"]).max() > 1e-4


def test_a_view_that_is_missing_is_named(setup):
    net, _, start = setup
    with pytest.raises(ValueError, match="between needs a view 'third'"):
        terms_of(net, start, [between(coral(), source="third")])
    with pytest.raises(ValueError, match="each names at least one view"):
        between(coral(), source=())


def test_rows_of_joined_views_that_are_masked_reach_no_gradient(setup):
    net, _, start = setup
    objective = adapt(net, alignments=[between(coral(), source=("source", "second"))], metrics={})

    def slope(rows):
        return jax.jit(jax.grad(lambda p: objective(p, {}, rows, jax.random.key(0), 0)[0]["coral"].value))(start.params)

    wrong = np.where(ROWS["source"]["mask"][:, None], ROWS["source"]["x"], jnp.nan)
    for a, b in zip(
        jax.tree.leaves(slope(ROWS)),
        jax.tree.leaves(slope({**ROWS, "source": {**ROWS["source"], "x": wrong}})),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_norms_of_a_domains_own_are_known_by_the_name_of_its_view(setup):
    net = network(backbone=normed(6), head=top(3))
    term = between(mean_teacher(net, student="target"), target="second")
    rows = {**ROWS, "second": {**ROWS["second"], "x": ROWS["second"]["x"][:8]}}
    for own, refused in (("second", True), ("target", False)):
        objective = adapt(net, alignments=[term], own_norms=(own,), metrics={})
        variables = objective.init(jax.random.key(1), rows)
        if refused:
            with pytest.raises(ValueError, match="normalisation layers"):
                objective(variables.params, variables.stats, rows, jax.random.key(2), 0)
        else:
            objective(variables.params, variables.stats, rows, jax.random.key(2), 0)

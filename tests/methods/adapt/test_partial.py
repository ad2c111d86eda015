"""Partial adaptation: PADA's and IWAN's weights by hand, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import Counted
from nets import batch, dense, largest_difference, top

import jtl
from jtl import alignments
from jtl.methods.adapt.iwan import source_weights
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network, part
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))
CASES = {
    "pada": alignments.pada(NET, top(1), weight=0.7),
    "iwan": alignments.adapt(NET, alignments=[alignments.iwan(top(1), top(1), 0.7, entropy_weight=0.3)]),
}
every = pytest.mark.parametrize("name", CASES)


def data(n=16, m=24):
    source, target = batch(n=n), batch(n=m, seed=1)
    source["mask"], mask = np.arange(n) % 4 != 1, np.arange(m) % 4 != 2
    return {"source": source, "target": {"x": target["x"] + 0.5, "mask": mask}}


ROWS = data()
VARIABLES = {name: objective.init(KEY, ROWS) for name, objective in CASES.items()}
GAMMA = np.array([1.0, 0.25, 0.0], np.float32)
VARIABLES["pada"] = VARIABLES["pada"]._replace(stats={"class_weights": jnp.asarray(GAMMA)})
programs = {
    name: jax.jit(
        jax.value_and_grad(
            lambda p, s, rows, o=objective: (lambda v, aux: (total(as_terms(v)), as_terms(v)))(*o(p, s, rows, KEY, 0)),
            has_aux=True,
        )
    )
    for name, objective in CASES.items()
}


def seen(name, of, critic):
    """The features and the critic's logit for the source of rows that count."""
    v, x = VARIABLES[name], ROWS[of]["x"][ROWS[of]["mask"]]
    out = NET.apply(v, x, train=False)[0]
    return np.asarray(out.output), np.asarray(top(1).apply(part(v, critic), out.features["pooled"], train=False)[0])[
        :, 0
    ]


def softplus(z):
    return np.logaddexp(0, z)


def test_pada_weighs_both_losses_by_the_class():
    (_, terms), _ = programs["pada"](VARIABLES["pada"].params, VARIABLES["pada"].stats, ROWS)
    y = ROWS["source"]["y"][ROWS["source"]["mask"]]
    logits, z = seen("pada", "source", "critic")
    ce = np.asarray(optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(y)))
    w = GAMMA[y]
    np.testing.assert_allclose(terms["source"].value, (w * ce).sum() / w.sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["critic_source"].value, 0.5 * (w * softplus(-z)).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        terms["critic_target"].value, 0.5 * softplus(seen("pada", "target", "critic")[1]).mean(), rtol=1e-5
    )


def test_pada_of_equal_weights_is_dann():
    ones = {"class_weights": jnp.ones(3)}
    plain = alignments.adapt(NET, alignments=[jtl.dann(top(1), 0.7)])
    (value, _), g = programs["pada"](VARIABLES["pada"].params, ones, ROWS)
    wanted, h = jax.jit(jax.value_and_grad(lambda p: total(as_terms(plain(p, {}, ROWS, KEY, 0)[0]))))(
        VARIABLES["pada"].params
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert largest_difference(g, h) < 1e-6


def test_class_weights_are_the_mean_prediction_over_its_largest():
    x = batch(n=10, seed=1)["x"]
    target = jtl.data.arrays(x, batch_size=4, shuffle=False)  # the last batch is filled up and masked
    step = make_step(CASES["pada"], optax.sgd(0.1))
    state = step.init(VARIABLES["pada"], KEY)
    counted = Counted(target)
    found = alignments.class_weights(NET, counted)(state).stats["class_weights"]
    assert counted.reads == {0: 1, 1: 1, 2: 1}
    p = np.asarray(jax.nn.softmax(NET.apply(VARIABLES["pada"], x, train=False)[0].output)).mean(0)
    np.testing.assert_allclose(found, p / p.max(), rtol=1e-5)
    empty = [{"x": x, "mask": np.zeros(10, bool)}]
    with pytest.raises(ValueError, match="no row of the target counts"):
        alignments.class_weights(NET, empty)(state)


def test_iwan_weighs_rows_by_the_first_critic():
    (_, terms), gradient = programs["iwan"](VARIABLES["iwan"].params, {}, ROWS)
    _, first = seen("iwan", "source", "critic_first")
    _logits, own = seen("iwan", "source", "critic")
    w = 1 - 1 / (1 + np.exp(-first))
    w /= w.mean()
    np.testing.assert_allclose(terms["critic_source"].value, 0.5 * (w * softplus(-own)).mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["critic_first_source"].value, 0.5 * softplus(-first).mean(), rtol=1e-5)
    p = np.asarray(jax.nn.softmax(jnp.asarray(seen("iwan", "target", "critic")[0])))
    np.testing.assert_allclose(terms["critic_entropy"].value, 0.3 * -(p * np.log(p)).sum(1).mean(), rtol=1e-5)
    assert np.abs(gradient["critic_first"]["out"]["kernel"]).max() > 1e-3


def test_the_first_critic_moves_no_feature():
    def only(params):
        terms = as_terms(CASES["iwan"](params, {}, ROWS, KEY, 0)[0])
        return total({n: t for n, t in terms.items() if n.startswith("critic_first")})

    g = jax.jit(jax.grad(only))(VARIABLES["iwan"].params)
    assert all((np.asarray(a) == 0).all() for n in ("backbone", "head", "critic") for a in jax.tree.leaves(g[n]))


@pytest.mark.parametrize("shift", [0.0, 200.0])
def test_weights_are_finite_where_the_critic_is_sure(shift):
    z = np.array([0.0, 1.0, 2.0, np.nan])
    found = source_weights(jnp.asarray(z + shift, jnp.float32), jnp.array([1, 1, 1, 0]))
    odds = np.exp(-z[:3]) if shift else 1 / (1 + np.exp(z[:3]))  # 1 − σ(z) → e^{−z}
    np.testing.assert_allclose(found[:3], odds / odds.mean(), rtol=1e-4)
    assert found[3] == 0
    assert (np.asarray(source_weights(jnp.zeros(2), jnp.zeros(2, bool))) == 0).all()


@every
def test_masked_rows_reach_nothing(name):
    v = VARIABLES[name]
    spoilt = {d: {**p, "x": np.where(p["mask"][:, None], p["x"], np.nan).astype(np.float32)} for d, p in ROWS.items()}
    (a, _), g = programs[name](v.params, v.stats, ROWS)
    (b, _), h = programs[name](v.params, v.stats, spoilt)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert largest_difference(g, h) < 1e-6
    none = {d: {**p, "mask": np.zeros(len(p["x"]), bool)} for d, p in spoilt.items()}
    (value, _), g = programs[name](v.params, v.stats, none)
    assert value == 0
    assert all((np.asarray(a) == 0).all() for a in jax.tree.leaves(g))


@every
def test_pmapped_devices_take_the_step_of_one(name):
    rows = ROWS
    step = make_step(CASES[name], optax.sgd(0.1))
    state = step.init(VARIABLES[name], KEY)
    wanted, _ = jax.jit(step)(state, rows)
    found, _ = pmap_step(step)(replicated(state), split_batch(rows))
    assert largest_difference(jax.device_get(unreplicated(found)).params, jax.device_get(wanted.params)) < 1e-5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"entropy_weight=-1\.0"):
        alignments.iwan(entropy_weight=-1.0)
    weighed = {**ROWS, "source": {**ROWS["source"], "weights": np.ones(16)}}
    with pytest.raises(ValueError, match="give it no 'weights'"):
        CASES["pada"](VARIABLES["pada"].params, VARIABLES["pada"].stats, weighed, KEY, 0)
    soft = {**ROWS, "source": {**ROWS["source"], "y": np.ones((16, 3), np.float32) / 3}}
    with pytest.raises(ValueError, match=r"pada: the view 'source' has labels of .*16, 3"):
        CASES["pada"](VARIABLES["pada"].params, VARIABLES["pada"].stats, soft, KEY, 0)

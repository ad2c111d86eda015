"""ATDOC against a list of what the rows were last seen as, over steps of a network; what reaches the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import dense, largest_difference, top

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.atdoc import atdoc, neighbours_say, sharpened
from jtl.methods.views import View
from jtl.model import Variables
from jtl.networks import network
from jtl.train.step import make_step

KEY = jax.random.key(0)
ROWS, K = 30, 3
NET = network(backbone=dense(8), head=top(3))
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(ROWS, 5)).astype(np.float32)
SOURCE = {"x": X[:8] + 1, "y": DRAW.integers(0, 3, 8)}


def batch_of(step):
    """A draw of the target, in which the last two rows only fill up the batch."""
    rows = np.random.default_rng(step).choice(ROWS, 12, replace=False)
    x = np.where(np.arange(12)[:, None] < 10, X[rows], np.nan).astype(np.float32)
    return {"source": SOURCE, "target": {"x": x, "y": rows, "mask": np.arange(12) < 10}}


def outputs(params, x):
    out = NET.apply(Variables(params, {}), x, train=False)[0]
    z = np.float64(out.output)
    e = np.exp(z - z.max(1, keepdims=True))
    return np.float64(out.features["pooled"]), e / e.sum(1, keepdims=True)


def test_steps_are_those_of_a_list_of_what_the_rows_were_seen_as():
    objective = adapt(NET, alignments=[atdoc(ROWS, lambda step: 0.5 * step, neighbours=K)])
    variables = objective.init(KEY, batch_of(0))
    step = make_step(objective, optax.sgd(0.1))
    state, run, known = step.init(variables, KEY), jax.jit(step), {}
    for i in range(6):
        batch = batch_of(i)
        places = batch["target"]["y"][:10]
        f, p = outputs(state.params, X[places])
        losses, weights, agrees = [], [], []
        for row in range(10):
            unit = f[row] / np.linalg.norm(f[row])
            others = [other for other in known if other != places[row]]
            near = sorted(others, key=lambda other: -unit @ known[other][0])[:K]
            q = sum((known[other][1] for other in near), np.zeros(3)) / K
            losses.append(-np.log(p[row, q.argmax()]))
            weights.append(q.max())
            agrees.append(p[row].argmax() == q.argmax())
        for row in range(10):
            sharp = [p[row, c] ** 2 / sum(p[j, c] ** 2 for j in range(10)) for c in range(3)]
            known[places[row]] = f[row] / np.linalg.norm(f[row]), np.array(sharp)
        state, metrics = run(state, batch)
        wanted = 0.5 * i * np.average(losses, weights=weights) if i else 0.0
        np.testing.assert_allclose(metrics["atdoc"], wanted, rtol=1e-4)
        np.testing.assert_allclose(metrics["atdoc_agrees"], np.mean(agrees) if i else 0.0)
        bank = jax.device_get(state.stats["atdoc"])
        for other in range(ROWS):
            f_known, p_known = known.get(other, (np.zeros(8), np.zeros(3)))
            np.testing.assert_allclose(bank["features"][other], f_known, atol=1e-5)
            np.testing.assert_allclose(bank["predictions"][other], p_known, atol=1e-5)
    assert len(known) < ROWS
    again = objective.init(KEY, batch_of(0), Variables(state.params, state.stats))
    assert largest_difference(again.stats, state.stats) == 0


def test_labels_are_those_of_scikit_learns_neighbours():
    knn = pytest.importorskip("sklearn.neighbors").NearestNeighbors(n_neighbors=K + 1, metric="cosine")
    f = DRAW.normal(size=(ROWS, 4))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    p = np.abs(DRAW.normal(size=(ROWS, 5)))
    near = knn.fit(f).kneighbors(f, return_distance=False)[:, 1:]
    with jax.enable_x64(True):
        found = neighbours_say(jnp.asarray(f), jnp.arange(ROWS), jnp.asarray(f), jnp.asarray(p), K)
    np.testing.assert_allclose(found, p[near].mean(1), rtol=1e-12)


def test_a_class_that_is_predicted_often_has_no_advantage_and_one_that_underflows_is_finite():
    p = np.float32(DRAW.dirichlet(np.ones(4), 20)) * np.array([1.0, 1.0, 1.0, 0.0], np.float32)
    often = np.concatenate([np.tile(p[:1], (50, 1)), p])
    found = np.asarray(sharpened(jnp.asarray(often), jnp.ones(70, bool)))
    np.testing.assert_allclose(found.sum(0), [1, 1, 1, 0], rtol=1e-5)
    assert np.isfinite(sharpened(jnp.asarray(p), jnp.zeros(20, bool))).all()


def test_rows_outside_of_the_memory_reach_none_of_it():
    z, f = 9 * jnp.eye(3), jnp.eye(3)
    views = {"target": View({"pooled": f}, z, None, jnp.array([-1, 1, 7]), None, {})}
    term = atdoc(3, neighbours=1)
    rows = {"target": views["target"]._replace(y=jnp.arange(3))}
    stats = term.init(KEY, rows, Variables({}, {})).stats
    with pytest.raises(ValueError, match="atdoc: 2 examples of the batch have y=1; y must be the row"):
        term.init(KEY, {"target": views["target"]._replace(y=jnp.array([1, 0, 1]))}, Variables({}, {}))
    terms, aux = jax.jit(term.loss)({}, stats, views, KEY, 0)
    assert terms["atdoc"].value == 0  # nothing was stored before
    assert np.asarray(aux.stats["atdoc"]["features"]).sum(1).tolist() == [0, 1, 0]


def test_what_does_not_fit_is_refused():
    for make, message in (
        (lambda: atdoc(5), "rows=5: must be an integer of at least 6"),
        (lambda: atdoc(5, neighbours=0), "neighbours=0"),
        (lambda: atdoc(50, -1.0), r"weight=-1\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    objective = adapt(NET, alignments=[atdoc(ROWS)])
    variables = objective.init(KEY, batch_of(0))
    with pytest.raises(ValueError, match="already hold 'atdoc'"):
        objective.init(KEY, batch_of(0), variables._replace(stats={"atdoc": jnp.zeros(2)}))
    with pytest.raises(ValueError, match="y of 'target' must be the row of each example"):
        objective.init(KEY, {"source": SOURCE, "target": {"x": X}})
    with pytest.raises(ValueError, match=r"atdoc: feature='map' of 'target' must be"):
        adapt(NET, alignments=[atdoc(ROWS, feature="map")]).init(KEY, batch_of(0))

"""AdaMatch against numpy, with the draws between the two passes read off."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, normed, top

from jtl import alignments, peft, rng
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))
MADE: dict[str, Any] = {"weight": 0.7, "threshold": 0.6, "momentum": 0.5}
OBJECTIVE = alignments.adamatch(NET, **MADE)


def data(n=8, m=16):
    source, target = batch(n=n), batch(n=m, seed=1)
    near = lambda x, seed: {"x": x + 0.3 * batch(n=len(x), seed=seed)["x"]}  # noqa: E731
    rows = {"source": source, "source_strong": near(source["x"], 2), "target": {"x": 3 * target["x"]}}
    rows["strong"] = near(rows["target"]["x"], 3)
    for name, part in rows.items():
        part["mask"] = np.arange(len(part["x"])) % 4 != (1 if "source" in name else 2)
    return rows


ROWS = data()
VARIABLES = OBJECTIVE.init(KEY, ROWS)
run = jax.jit(
    jax.value_and_grad(
        lambda p, s, rows: (lambda v, aux: (total(as_terms(v)), aux))(*OBJECTIVE(p, s, rows, KEY, 0)), has_aux=True
    )
)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_terms_are_those_of_numpy():
    terms, aux = jax.jit(OBJECTIVE.loss)(VARIABLES.params, VARIABLES.stats, ROWS, KEY, 0)
    z = {d: np.asarray(NET.apply(VARIABLES, part["x"], train=False)[0].output) for d, part in ROWS.items()}
    m = {d: part["mask"] for d, part in ROWS.items()}
    p, q, y = softmax(z["source"]), softmax(z["target"]), ROWS["source"]["y"]
    ce = lambda z, y: -np.log(softmax(z))[np.arange(len(y)), y]  # noqa: E731
    for d in ("source", "source_strong"):  # without batch statistics both passes agree, and the draw is of no matter
        np.testing.assert_allclose(terms[d].value, 0.5 * ce(z[d], y)[m[d]].mean(), rtol=1e-5)
    q_s, q_t = (0.5 / 3 + 0.5 * a[m[d]].mean(0) for a, d in ((p, "source"), (q, "target")))
    aligned = q * (q_s + 1e-6) / (q_t + 1e-6)
    aligned /= aligned.sum(1, keepdims=True)
    limit = 0.6 * p.max(1)[m["source"]].mean()
    sure = aligned.max(1) >= limit
    assert 0 < sure[m["target"]].mean() < 1 or sure[m["target"]].all()
    wanted = np.where(sure, ce(z["strong"], aligned.argmax(1)), 0)[m["target"]].mean()
    np.testing.assert_allclose(terms["adamatch"].value, 0.7 * wanted, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["adamatch_threshold"], limit, rtol=1e-5)
    np.testing.assert_allclose(aux.stats["adamatch"]["source"], q_s, rtol=1e-5)
    np.testing.assert_allclose(aux.stats["adamatch"]["target"], q_t, rtol=1e-5)


def test_logits_lie_between_the_two_passes():
    """With BatchNorm the passes differ: the term is that of `z' + u (z'' − z')` with the stream's own u."""
    net = network(backbone=normed(8), head=top(3))
    objective = alignments.adamatch(net, **MADE)
    rows = {d: {n: a for n, a in part.items() if n != "mask"} for d, part in ROWS.items()}
    variables = objective.init(KEY, rows)
    terms, aux = jax.jit(objective.loss)(variables.params, variables.stats, rows, KEY, 0)
    names = sorted(rows)
    out, stats = net.apply(variables, np.concatenate([rows[d]["x"] for d in names]), train=True)
    alone, _ = net.apply(variables, np.concatenate([rows[d]["x"] for d in names[:2]]), train=True)
    u = jax.random.uniform(jax.random.fold_in(rng.stream(KEY, "adamatch"), 0), (8, 3))
    z = out.output[:8] + u * (alone.output[:8] - out.output[:8])
    wanted = optax.softmax_cross_entropy_with_integer_labels(z, jnp.asarray(rows["source"]["y"])).mean()
    np.testing.assert_allclose(terms["source"].value, 0.5 * wanted, rtol=1e-4)
    assert largest_difference(aux.stats["backbone"], stats["backbone"]) < 1e-5


def test_masked_rows_reach_nothing():
    spoilt = {
        d: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for d, part in ROWS.items()
    }
    (a, _), g = run(VARIABLES.params, VARIABLES.stats, ROWS)
    (b, _), h = run(VARIABLES.params, VARIABLES.stats, spoilt)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert largest_difference(g, h) < 1e-6
    none = {d: {**part, "mask": np.zeros(len(part["x"]), bool)} for d, part in spoilt.items()}
    (value, aux), g = run(VARIABLES.params, VARIABLES.stats, none)
    assert value == 0
    assert largest_difference(g, jax.tree.map(jnp.zeros_like, g)) == 0
    assert largest_difference(aux.stats["adamatch"], VARIABLES.stats["adamatch"]) == 0


def test_a_masked_row_of_the_source_has_no_label_in_the_strong_view():
    rows = {**ROWS, "source_strong": {"x": ROWS["source_strong"]["x"]}}
    found, wanted = (OBJECTIVE(VARIABLES.params, VARIABLES.stats, r, KEY, 0)[0]["source_strong"] for r in (rows, ROWS))
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-6)


def test_eight_devices_take_the_step_of_one():
    rows, results = data(16, 24), []
    step = make_step(OBJECTIVE, optax.sgd(0.1))
    for grid in (mesh(devices=jax.devices()[:1]), mesh()):
        update, state = jit_step(step, step.init(VARIABLES, KEY), grid)
        results.append(jax.device_get(update(state, put_batch(rows, grid))[0].params))
    assert largest_difference(*results) < 1e-5


def test_adapters_alone_learn():
    net, variables = peft.attach(NET, NET.init(KEY, ROWS["source"]["x"]), peft.lora(2, ("layer0",)), KEY)
    objective = alignments.adamatch(net, **MADE)
    start = objective.init(KEY, ROWS, variables)
    step = make_step(objective, optax.sgd(0.1), trainable=select("backbone/adapter/.*"))
    state = step.init(start, KEY)
    for _ in range(2):  # the second factor starts at zero, so the first one moves in the second step
        state, _ = jax.jit(step)(state, ROWS)
    before, after = flatten(start.params), flatten(state.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {f"backbone/adapter/layer0/{part}" for part in "ab"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        alignments.adamatch(NET, threshold=1.5)
    with pytest.raises(ValueError, match=r"momentum=1\.0"):
        alignments.adamatch(NET, momentum=1.0)
    with pytest.raises(ValueError, match=r"the batch lacks \['strong'\]"):
        OBJECTIVE(VARIABLES.params, VARIABLES.stats, {d: ROWS[d] for d in list(ROWS)[:3]}, KEY, 0)
    shorter = {**ROWS, "source_strong": {"x": ROWS["source"]["x"][:4]}}
    with pytest.raises(ValueError, match="'source' has 8 rows and 'source_strong' 4"):
        OBJECTIVE(VARIABLES.params, VARIABLES.stats, shorter, KEY, 0)

"""MCD: its three objectives against the formula in numpy, and a step against three written-out updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top

from jtl.methods.adapt.mcd import discrepancy, mcd
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.params import select
from jtl.train.step import make_step
from jtl.train.turns import Turn

NET = network(backbone=dense(8), head=top(3))


def domains(masked=True):
    source, target = batch(n=12, masked=masked), batch(n=16, seed=1, masked=masked)
    return {"source": source, "target": {name: a for name, a in target.items() if name != "y"}}


def slopes(objective, variables, rows, key):
    return jax.jit(jax.grad(lambda p: total(objective(p, {}, rows, key, 0)[0])))(variables.params)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def test_the_three_objectives_are_the_formula_row_by_row(key):
    rows, turns = domains(), mcd(NET, top(3))
    variables = turns[0].init(key, rows)
    p = jax.tree.map(np.asarray, variables.params)
    assert largest_difference(variables.params["head"]["out"]["kernel"], p["second"]["out"]["kernel"]) > 0.01

    def said(x, head):
        f = np.maximum(x @ p["backbone"]["layer0"]["kernel"] + p["backbone"]["layer0"]["bias"], 0)
        return softmax(f @ p[head]["out"]["kernel"] + p[head]["out"]["bias"])

    s, t = rows["source"], rows["target"]
    ce = sum(
        np.mean([-np.log(said(x, head)[y]) for x, y, m in zip(s["x"], s["y"], s["mask"], strict=True) if m])
        for head in ("head", "second")
    )
    d = np.mean([np.abs(said(x, "head") - said(x, "second")).mean() for x in t["x"][t["mask"]]])
    for objective, expected in zip(turns, (ce, ce - d, d), strict=True):
        terms, _ = objective(variables.params, {}, rows, key, 0)
        np.testing.assert_allclose(total(terms), expected, rtol=1e-5)


def test_a_step_is_the_papers_three_updates(key):
    rows, turns = domains(), mcd(NET, top(3))
    start = turns[0].init(key, rows)
    step = make_step(
        [Turn(turns[0], by=(0, 1), name="fit"), Turn(turns[1], by=(1,)), Turn(turns[2], by=(0,), repeat=4)],
        [optax.sgd(0.1), optax.sgd(0.2)],
        trainable=[select("backbone/.*"), select("head/.*", "second/.*")],
    )
    state, metrics = jax.jit(step)(step.init(start, key), rows)
    params, rates = start.params, {"backbone": 0.1, "head": 0.2, "second": 0.2}
    grad = jax.jit(slopes, static_argnums=0)
    for objective, names in [(turns[0], tuple(rates)), (turns[1], ("head", "second"))] + [
        (turns[2], ("backbone",))
    ] * 4:
        g = grad(objective, start._replace(params=params), rows, key)
        moved = {n: jax.tree.map(lambda p, g, n=n: p - rates[n] * g, params[n], g[n]) for n in names}
        params = {**params, **moved}
    assert largest_difference(state.params, params) < 1e-6
    assert "fit/accuracy" in metrics


def test_the_gradient_is_that_of_finite_differences_and_finite_where_heads_agree():
    with jax.enable_x64():
        draw = np.random.default_rng(0)
        z, other = (jnp.asarray(draw.normal(size=(2, 3))) for _ in range(2))
        found = jax.jit(jax.grad(lambda z: discrepancy(z, other).sum()))(z)
        for i, j in np.ndindex(2, 3):
            nudge = jnp.zeros((2, 3)).at[i, j].set(1e-6)
            up, down = (discrepancy(z + e * nudge, other).sum() for e in (1, -1))
            np.testing.assert_allclose(found[i, j], (up - down) / 2e-6, atol=1e-8)
    alike = jax.grad(lambda z: discrepancy(z, jnp.ones((2, 3))).sum())(jnp.ones((2, 3)))
    np.testing.assert_allclose(alike, np.zeros((2, 3)), atol=1e-7)


def test_masked_rows_do_not_count(key):
    rows, turns = domains(), mcd(NET, top(3))
    variables = turns[0].init(key, rows)
    dirty = {n: v | {"x": np.where(v["mask"][:, None], v["x"], np.nan)} for n, v in rows.items()}
    grad = jax.jit(slopes, static_argnums=0)
    for objective in turns[1:]:
        g = grad(objective, variables, dirty, key)
        assert largest_difference(g, grad(objective, variables, rows, key)) < 1e-6
    rows["target"]["mask"] = np.zeros(16, bool)
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(grad(turns[2], variables, rows, key)))


def test_what_does_not_fit_is_refused(key):
    rows = domains()
    turns = mcd(NET, top(4))
    with pytest.raises(ValueError, match=r"the heads return \(16, 3\) and \(16, 4\)"):
        turns[0](turns[0].init(key, rows).params, {}, rows, key, 0)
    turns = mcd(NET, top(3))
    params = turns[0].init(key, rows).params
    del rows["source"]["y"]
    with pytest.raises(ValueError, match="no labels of 'source'"):
        turns[0](params, {}, rows, key, 0)

"""ADDA: both turns against the formula in numpy, and what may not move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, normed, top

from jtl.methods.adapt.adda import adda
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.params import select
from jtl.train.step import make_step

NET = network(backbone=dense(8), head=top(3))


def domains():
    return {
        "source": {n: a for n, a in batch(n=12, masked=True).items() if n != "y"},
        "target": {n: a for n, a in batch(n=16, seed=1, masked=True).items() if n != "y"},
    }


def step_of(turns):
    return make_step(turns, [optax.sgd(0.5)] * 2, trainable=[select("critic/.*"), select("backbone/.*")])


def test_both_turns_are_the_formula_row_by_row(key):
    rows, turns = domains(), adda(NET, top(1))
    start = turns[0].init(key, rows, NET.init(key, rows["source"]["x"]))
    moved = {**start.params, "backbone": jax.tree.map(lambda a: a + 0.1, start.params["backbone"])}
    p = jax.tree.map(np.asarray, moved)

    def said(x, layer):
        f = np.maximum(x @ np.asarray(layer["layer0"]["kernel"]) + np.asarray(layer["layer0"]["bias"]), 0)
        return float((f @ p["critic"]["out"]["kernel"] + p["critic"]["out"]["bias"])[0])

    frozen = start.params["backbone"]
    source = [said(x, frozen) for x in rows["source"]["x"][rows["source"]["mask"]]]
    target = [said(x, p["backbone"]) for x in rows["target"]["x"][rows["target"]["mask"]]]
    first = 0.5 * np.mean(np.log1p(np.exp(-np.array(source)))) + 0.5 * np.mean(np.log1p(np.exp(np.array(target))))
    second = np.mean(np.log1p(np.exp(-np.array(target))))
    for objective, expected in zip(turns, (first, second), strict=True):
        terms, _ = objective(moved, start.stats, rows, key, 0)
        np.testing.assert_allclose(total(terms), expected, rtol=1e-5)
    g = jax.jit(jax.grad(lambda p: total(turns[0](p, start.stats, rows, key, 0)[0])))(moved)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(g["backbone"])) == 0, "the critic's turn"


def test_the_encoder_moves_and_its_start_stays(key):
    rows, net = domains(), network(backbone=normed(8), head=top(3))
    turns = adda(net, top(1))
    start = turns[0].init(key, rows, net.init(key, rows["source"]["x"]))
    step = step_of(turns)
    update, state = jax.jit(step), step.init(start, key)
    for _ in range(2):
        state, _ = update(state, rows)
    state, metrics = update(state, rows)
    assert np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, state.stats["source_encoder"], start.stats["source_encoder"])
    jax.tree.map(np.testing.assert_array_equal, state.params["head"], start.params["head"])
    assert largest_difference(state.params["backbone"], start.params["backbone"]) > 1e-3
    assert largest_difference(state.stats["backbone"], start.stats["backbone"]) > 1e-3
    jax.tree.map(
        np.testing.assert_array_equal,
        turns[0].init(key, rows, start._replace(params=state.params)).stats["source_encoder"],
        start.stats["source_encoder"],
    )


def test_an_encoder_passes_for_the_source_against_a_fixed_critic(key):
    """The inverted loss falls, as the target's features come to look like the source's to this critic."""
    rows, turns = domains(), adda(NET, top(1))
    start = turns[0].init(key, rows, NET.init(key, rows["source"]["x"]))
    step = make_step(turns[1], optax.sgd(0.2), trainable=select("backbone/.*"))
    update, state = jax.jit(step), step.init(start, key)
    losses = []
    for _ in range(10):
        state, metrics = update(state, rows)
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.05


def test_masked_rows_do_not_count(key):
    rows, turns = domains(), adda(NET, top(1))
    start = turns[0].init(key, rows, NET.init(key, rows["source"]["x"]))
    step = step_of(turns)
    update, state = jax.jit(step), step.init(start, key)
    dirty = {n: v | {"x": np.where(v["mask"][:, None], v["x"], np.nan)} for n, v in rows.items()}
    assert largest_difference(update(state, rows)[0].params, update(state, dirty)[0].params) < 1e-6
    rows["target"]["mask"] = np.zeros(16, bool)
    after, _ = update(state, rows)
    jax.tree.map(np.testing.assert_array_equal, after.params["backbone"], start.params["backbone"])


def test_a_trained_network_is_needed(key):
    with pytest.raises(ValueError, match="trained on the source"):
        adda(NET)[0].init(key, domains())

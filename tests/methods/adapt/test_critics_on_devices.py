"""Alignments with a critic, a second head or turns: eight devices take the step of one."""

import jax
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top

from jtl import alignments
from jtl.networks import network
from jtl.params import select
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step
from jtl.train.turns import Turn

KEY = jax.random.key(0)
NET, OPEN = (network(backbone=dense(8), head=top(classes)) for classes in (3, 4))
CASES = {
    "mdd": alignments.adapt(NET, alignments=[alignments.mdd(top(3))]),
    "osbp": alignments.adapt(OPEN, alignments=[alignments.osbp(OPEN)]),
    "wdgrl": alignments.adapt(NET, alignments=[alignments.wdgrl(top(1))]),
    "adda": alignments.adda(NET, top(1)),
    "mcd": alignments.mcd(NET, top(3)),
}
GROUPS = {
    "adda": [select("critic/.*"), select("backbone/.*")],
    "mcd": [select("backbone/.*"), select("head/.*", "second/.*")],
}
BY = {"adda": [(0,), (1,)], "mcd": [(0, 1), (1,), (0,)]}
"""The groups that each turn trains."""
DRAWS = {"wdgrl"}
"""A pmapped device draws from a stream of its own."""


def data():
    rows = {"source": batch(n=16, seed=0), "target": {"x": 0.7 * batch(n=24, seed=1)["x"] + 0.5}}
    for i, part in enumerate(rows.values()):
        part["mask"] = np.arange(len(part["x"])) % 4 != i + 1
    return rows


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_take_the_step_of_one(name):
    rows, turns = data(), CASES[name]
    if name in GROUPS:
        order = [Turn(turn, by=by) for turn, by in zip(turns, BY[name], strict=True)]
        step = make_step(order, [optax.sgd(0.1)] * 2, trainable=GROUPS[name])
        start = turns[0].init(KEY, rows, NET.init(KEY, rows["source"]["x"]))
    else:
        step, start = make_step(turns, optax.sgd(0.1)), turns.init(KEY, rows)
    run, state = jit_step(step, step.init(start, KEY), mesh())
    eight, metrics = jax.device_get(run(state, put_batch(rows, mesh())))
    one, expected = jax.device_get(jax.jit(step)(step.init(start, KEY), rows))
    assert largest_difference(one.params, start.params) > 1e-3
    assert largest_difference(eight.params, one.params) < 1e-5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), metrics, expected)
    if name not in DRAWS:
        many, _ = pmap_step(step)(replicated(step.init(start, KEY)), split_batch(rows))
        assert largest_difference(jax.device_get(unreplicated(many)).params, one.params) < 1e-5

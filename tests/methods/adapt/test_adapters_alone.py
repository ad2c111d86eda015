"""Methods that are objectives by themselves, or take turns: adapters alone learn, and frozen statistics stay."""

import jax
import numpy as np
import optax
import pytest
from nets import batch, normed, top

from jtl import alignments, peft
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train.step import make_step
from jtl.train.turns import Turn

KEY = jax.random.key(0)
ROWS = {"source": batch(n=16), "target": {"x": 0.7 * batch(n=16, seed=1)["x"] + 0.5}, "second": batch(n=16, seed=3)}
DOMAINS = ("source", "second")
ADAPTERS = select("backbone/adapter/.*")
CASES = {
    "adda": lambda net: list(alignments.adda(net, top(1))),
    "group_dro": lambda net: [alignments.group_dro(net, DOMAINS)],
    "mcd": lambda net: list(alignments.mcd(net, top(3))),
    "mldg": lambda net: [alignments.mldg(net, DOMAINS, inner_lr=0.1)],
    "osbp": lambda net: [alignments.adapt(net, alignments=[alignments.osbp(net)])],
    "pada": lambda net: [alignments.pada(net, top(1))],
}
GROUPS = {
    "adda": [select("critic/.*"), ADAPTERS],
    "mcd": [ADAPTERS, select("second/.*")],
    "pada": [select("backbone/adapter/.*", "critic/.*")],
}
BY = {"adda": [(0,), (1,)], "mcd": [(0, 1), (1,), (0,)]}
"""The groups that each turn trains."""


@pytest.mark.parametrize("name", CASES)
def test_adapters_alone_learn(name):
    net = network(backbone=normed(8), head=top(4 if name == "osbp" else 3))
    net, variables = peft.attach(net, net.init(KEY, ROWS["source"]["x"]), peft.lora(2, ("layer",)), KEY)
    turns, groups = CASES[name](net), GROUPS.get(name, [ADAPTERS])
    order = [Turn(turn, by=by) for turn, by in zip(turns, BY.get(name, [(0,)]), strict=True)]
    step = make_step(order, [optax.sgd(0.1)] * len(groups), trainable=groups)
    before = turns[0].init(KEY, ROWS, variables)
    state, run = step.init(before, KEY), jax.jit(step)
    for _ in range(2):  # b of a low-rank update starts at 0, so a learns from the second step on
        state, _ = run(state, ROWS)
    params, start = flatten(state.params), flatten(before.params)
    moved = {path for path in start if not np.array_equal(start[path], params[path])}
    assert {path for path in moved if path.startswith(("backbone/", "head/"))} == {
        f"backbone/adapter/layer/{part}" for part in "ab"
    }
    stats = {path: value for path, value in flatten(state.stats).items() if "norm/" in path}
    assert stats
    assert all(np.array_equal(value, flatten(before.stats)[path]) for path, value in stats.items())

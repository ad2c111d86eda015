"""Optimizers of optax.contrib under the step: schedule-free and Muon."""

import jax
import numpy as np
import optax
import pytest
from optax import contrib

from jtl import backbones, heads
from jtl.methods.finetune.finetune import finetune
from jtl.networks import network
from jtl.params import merge, select, split
from jtl.train.step import make_step

TXS = {
    "schedule free": lambda: contrib.schedule_free_adamw(1e-2, warmup_steps=2),
    "muon": lambda: contrib.muon(1e-2),
}


@pytest.mark.parametrize("name", TXS)
def test_the_step_is_optaxs_own_loop_on_the_trainable_part(name):
    draw = np.random.default_rng(0)
    batch = {"x": draw.normal(size=(12, 6)).astype(np.float32), "y": draw.integers(0, 3, 12).astype(np.int32)}
    net = network(backbone=backbones.mlp((8, 8)), head=heads.linear(3))
    objective, mask, tx = finetune(net), select("backbone/stage2/.*", "head/.*"), TXS[name]()
    start = net.init(jax.random.key(0), batch["x"])
    step = make_step(objective, tx, trainable=mask)
    state, run = step.init(start, jax.random.key(1)), jax.jit(step)
    trained, frozen = split(start.params, mask)
    opt = tx.init(trained)

    @jax.jit
    def by_hand(trained, opt):
        grads = jax.grad(lambda p: objective(merge(p, frozen), {}, batch, None, 0)[0].value)(trained)
        updates, opt = tx.update(grads, opt, trained)
        return optax.apply_updates(trained, updates), opt

    losses = []
    for _ in range(4):
        state, found = run(state, batch)
        trained, opt = by_hand(trained, opt)
        losses.append(float(found["loss"]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, merge(trained, frozen)
    )
    assert losses[-1] < losses[0]
    if name == "schedule free":  # evaluation is at the average, which optax keeps
        x = contrib.schedule_free_eval_params(state.opt[0], split(state.params, mask)[0])
        y = contrib.schedule_free_eval_params(opt, trained)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), x, y)

"""Optimizers of optax.contrib under the step: schedule-free and Muon."""

import jax
import numpy as np
import optax
import pytest
from optax import contrib

from jtl import backbones, heads
from jtl.data import arrays
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten, merge, select, split
from jtl.train import Checkpoints, Validation, evaluate, fit, make_step, mesh, variables

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
        x = contrib.schedule_free_eval_params(opt, trained)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.ema, x)
    else:
        assert state.ema == {}


def test_a_schedule_free_run_validates_saves_and_resumes_its_averages(tmp_path):
    """It validated y, at which it trains, and so chose the best of the wrong parameters."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(24, 6)).astype(np.float32), draw.integers(0, 3, 24).astype(np.int32)
    data = arrays(x, y, batch_size=8)
    net = network(backbone=backbones.mlp((8,)), head=heads.linear(3))
    step = make_step(finetune(net), optax.chain(optax.clip(1.0), contrib.schedule_free_sgd(0.5)))
    start = step.init(net.init(jax.random.key(0), x), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, start.ema, start.params)
    one = mesh(devices=jax.devices()[:1])
    judge = Validation(evaluation(net), data)
    options = {"mesh": one, "validation": judge, "progress": False}
    done = fit(step, start, data, steps=6, **options)
    free = done.state.opt[0][1]
    averages = contrib.schedule_free_eval_params(free, done.state.params)
    want = evaluate(evaluation(net), Variables(averages, done.state.stats), data)["loss"]
    assert done.history[-1]["loss"] == pytest.approx(want, rel=1e-5)
    assert evaluate(evaluation(net), variables(done.state), data)["loss"] != pytest.approx(want, rel=1e-3)
    for steps in (3, 6):
        again = fit(step, start, data, steps=steps, checkpoints=Checkpoints(tmp_path), **options).state
    jax.tree.map(np.testing.assert_array_equal, again.ema, done.state.ema)
    jax.tree.map(np.testing.assert_array_equal, Checkpoints(tmp_path).variables().params, done.state.ema)


def test_one_group_of_two_may_be_schedule_free(key):
    net = network(backbone=backbones.mlp((8,)), head=heads.linear(3))
    x = np.ones((4, 6), np.float32)
    groups = [select("head/.*"), select("backbone/.*")]
    free = contrib.schedule_free_sgd(0.1)
    masked = optax.masked(contrib.schedule_free_sgd(0.1), lambda p: jax.tree.map(lambda a: a.ndim > 1, p))
    batch = {"x": x, "y": np.zeros(4, np.int32)}
    for head, names in ((free, {"head/out/bias", "head/out/kernel"}), (masked, {"head/out/kernel"})):
        step = make_step(finetune(net), [head, optax.sgd(0.1)], trainable=groups)
        state, _ = jax.jit(step)(step.init(net.init(key, x), key), batch)
        assert flatten(state.ema).keys() == names
    low = make_step(finetune(net), free, ema=0.5)
    assert flatten(low.init(net.init(key, x), key).ema).keys() > names

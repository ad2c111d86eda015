"""Optimizers that evaluate the loss or its gradient themselves, followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, normed, parts, top

from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import mean
from jtl.model import Variables, cast_floating
from jtl.networks import network
from jtl.params import flatten, select
from jtl.train import Turn, make_step, pmap_step, replicated, split_batch, unreplicated
from jtl.typing import Aux

RHO, LR = 0.05, 0.1
ROWS = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
CURVED = ROWS * np.asarray([1, 2, 4, 8], np.float32)
MINIMUM = np.asarray([1, -2, 3, 0.5], np.float32)


def quadratic(params, stats, batch, key, step):
    """A mean over rows of (x · (w - m))², which is 0 at m alone."""
    return mean((batch["x"] @ (params["w"] - MINIMUM)) ** 2, batch.get("mask")), Aux(stats, {})


def plain(params):
    return ((CURVED @ (params["w"] - MINIMUM)) ** 2).mean()


def start(step, key):
    return step.init(Variables({"w": jnp.zeros(4)}, {}), key)


SEARCHES = {
    "zoom": lambda: optax.lbfgs(),
    "backtracking": lambda: optax.lbfgs(
        linesearch=optax.scale_by_backtracking_linesearch(max_backtracking_steps=15, store_grad=True)
    ),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_lbfgs_is_the_loop_written_by_hand_and_reaches_the_minimum(search, key):
    tx = SEARCHES[search]()
    step = make_step(quadratic, tx)
    state, run = start(step, key), jax.jit(step)

    @jax.jit
    def by_hand(params, opt):
        value, grad = jax.jit(jax.value_and_grad(plain))(params)
        updates, opt = tx.update(grad, opt, params, value=value, grad=grad, value_fn=plain)
        return optax.apply_updates(params, updates), opt, value

    params, opt = {"w": jnp.zeros(4)}, tx.init({"w": jnp.zeros(4)})
    for number in range(25):
        state, metrics = run(state, {"x": CURVED})
        params, opt, value = by_hand(params, opt)
        if number < 6:  # later values are roundings of 0
            np.testing.assert_allclose(metrics["loss"], value, rtol=1e-3)
            np.testing.assert_allclose(state.params["w"], params["w"], rtol=1e-3, atol=1e-4)
    assert float(metrics["loss"]) < 1e-8
    np.testing.assert_allclose(state.params["w"], MINIMUM, rtol=1e-4)


@pytest.mark.parametrize("search", SEARCHES)
def test_lbfgs_over_microbatches_masks_and_eight_devices(search, key):
    rows = {"x": CURVED, "mask": np.arange(16) % 5 != 2}
    found = {}
    for parts_ in (1, 2):
        step = make_step(quadratic, SEARCHES[search](), microbatch=parts_)
        state, run = start(step, key), jax.jit(step)
        for _ in range(3):
            state, _ = run(state, rows)
        found[parts_] = state.params["w"]
    step = make_step(quadratic, SEARCHES[search]())
    state, run = replicated(start(step, key)), pmap_step(step)
    for _ in range(3):
        state, _ = run(state, split_batch(rows))
    found["pmap"] = unreplicated(state).params["w"]
    assert float(jnp.abs(found[1]).max()) > 0.5
    for other in (2, "pmap"):
        # Sums in another order, and what a search makes of their roundings.
        np.testing.assert_allclose(found[other], found[1], rtol=1e-3, atol=1e-4)


def sam(inner=None):
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    return optax.contrib.sam(inner or optax.sgd(LR), adversary, opaque_mode=True)


def norm(tree):
    return jnp.sqrt(sum((leaf.astype(jnp.float32) ** 2).sum() for leaf in jax.tree.leaves(tree)))


def two_passes(objective, variables, rows, dtype=None, limit=None):
    """w - η ∇L(w + ρ ∇L(w) / |∇L(w)|), perturbed in the type of w; statistics of the first pass."""

    def loss(params, stats):
        given = params if dtype is None else cast_floating(params, dtype)
        value, aux = objective(given, stats, rows, jax.random.key(0), 0)
        return value.value, aux.stats

    def gradient(params):
        g, stats = jax.jit(jax.grad(loss, has_aux=True))(params, variables.stats)
        factor = 1.0 if limit is None else jnp.minimum(1.0, limit / norm(g))
        return jax.tree.map(lambda a: a * factor, g), stats

    @jax.jit
    def run(params):
        first, stats = gradient(params)
        length = norm(first)
        around = jax.tree.map(lambda p, g: p + RHO * g / length, params, first)
        second, _ = gradient(around)
        return jax.tree.map(lambda p, g: p - LR * g, params, second), stats, around

    return run(variables.params)


def norm_net(key, rows):
    net = network(backbone=normed(8), head=top(3))
    return finetune(net), net.init(key, rows["x"])


@pytest.mark.parametrize("clip", [None, 0.3])
def test_sam_is_two_passes_and_moves_batch_statistics_once(key, clip):
    rows = batch(masked=True)
    objective, variables = norm_net(key, rows)
    step = make_step(objective, sam(), clip=clip)
    state, _ = jax.jit(step)(step.init(variables, key), rows)
    params, stats, _ = two_passes(objective, variables, rows, limit=clip)
    assert largest_difference(state.params, params) < 1e-6
    assert largest_difference(state.params, variables.params) > 1e-3
    hidden = np.asarray(rows["x"] @ variables.params["backbone"]["layer"]["kernel"], np.float64)
    moved = state.stats["backbone"]["norm"]
    np.testing.assert_allclose(moved["mean"], 0.1 * hidden.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * hidden.var(0, ddof=1), rtol=1e-5)
    assert largest_difference(stats, state.stats) < 1e-6


def test_sam_is_not_the_optimizer_within_it(key):
    rows = batch()
    objective, variables = norm_net(key, rows)
    found = []
    for tx in (sam(), optax.sgd(LR)):
        step = make_step(objective, tx)
        found.append(jax.jit(step)(step.init(variables, key), rows)[0].params)
    assert largest_difference(*found) > 1e-5


@pytest.mark.parametrize("how", ["microbatch", "pmap"])
def test_sam_over_microbatches_and_eight_devices(key, how):
    rows = batch(masked=True)
    net, _, variables = parts(key, rows["x"])
    one = make_step(finetune(net), sam(optax.adam(1e-2)))
    expected = jax.jit(one)(one.init(variables, key), rows)[0]
    if how == "microbatch":
        two = make_step(finetune(net), sam(optax.adam(1e-2)), microbatch=2)
        found = jax.jit(two)(two.init(variables, key), rows)[0]
    else:
        found = unreplicated(pmap_step(one)(replicated(one.init(variables, key)), split_batch(rows))[0])
    assert largest_difference(expected.params, variables.params) > 5e-3
    assert largest_difference(found.params, expected.params) < 2e-5  # roundings, through adam's normalisation


def test_sam_perturbs_float32_weights_under_bfloat16(key):
    """Perturbed after the cast most weights would not move: the perturbation is below half of their last bit."""
    rows = batch()
    net, _, variables = parts(key, rows["x"])
    objective = finetune(net)
    step = make_step(objective, sam(), dtype=jnp.bfloat16)
    state, _ = jax.jit(step)(step.init(variables, key), rows)
    params, _, around = two_passes(objective, variables, rows, jnp.bfloat16)
    # The same operations in bfloat16, in other programs: roundings of its 8 bits in a gradient of less than 1.
    scale = largest_difference(params, variables.params)
    assert largest_difference(state.params, params) < 0.02 * scale
    weights = [path for path in flatten(around) if path.endswith("kernel")]
    unmoved = [flatten(around)[path] == flatten(variables.params)[path] for path in weights]
    assert np.mean(np.concatenate([np.ravel(a) for a in unmoved])) < 0.2


def test_what_an_objective_sees_of_sam_under_bfloat16(key):
    """The weights of the second pass, by a loss whose gradient is they themselves: 2 w, cast after the perturbation."""

    def squares(params, stats, batch, key, step):
        w = params["w"]
        assert w.dtype == jnp.bfloat16
        return mean((w * w).astype(jnp.float32) * batch["x"]), Aux(stats, {})

    w = jnp.asarray(np.random.default_rng(0).uniform(1, 2, 256), jnp.float32)
    step = make_step(squares, optax.contrib.sam(optax.sgd(1.0), optax.sgd(-1e-3), opaque_mode=True), dtype=jnp.bfloat16)
    state, _ = jax.jit(step)(step.init(Variables({"w": w}, {}), key), {"x": np.ones(256, np.float32)})
    seen = (w - state.params["w"]) * 128  # the gradient of a mean of 256 squares is w / 128
    first = w.astype(jnp.bfloat16).astype(jnp.float32) / 128
    expected = (w - 1e-3 * first).astype(jnp.bfloat16)
    np.testing.assert_allclose(seen, expected.astype(jnp.float32), atol=1e-4)


def test_groups_have_optimizers_of_both_kinds(key):
    """One group by SAM, the other by SGD, in one turn: SAM's second gradient has the other group as it was."""
    rows = batch()
    net, _, variables = parts(key, rows["x"])
    objective = finetune(net)
    masks = [select("backbone/.*"), select("head/.*")]
    step = make_step([Turn(objective, by=(0, 1))], [sam(), optax.sgd(LR)], trainable=masks)
    state, _ = jax.jit(step)(step.init(variables, key), rows)

    slope = jax.jit(jax.grad(lambda params: objective(params, {}, rows, key, 0)[0].value))
    first = slope(variables.params)
    length = norm(first["backbone"])
    around = jax.tree.map(lambda p, g: p + RHO * g / length, variables.params["backbone"], first["backbone"])
    second = slope({"backbone": around, "head": variables.params["head"]})
    moved = {"backbone": second["backbone"], "head": first["head"]}
    expected = jax.tree.map(lambda p, g: p - LR * g, variables.params, moved)
    assert largest_difference(state.params, expected) < 1e-6

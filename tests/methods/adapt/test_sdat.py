"""SDAT against gradients of quadratics in closed form, optax's SAM, and two passes of a network by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, largest_difference, normed, parts, top

from jtl import dann, select
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.sdat import climb, sdat
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import mean, total, values
from jtl.model import Variables
from jtl.networks import network
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step
from jtl.typing import Aux

RHO = 0.3
DRAW = np.random.default_rng(0)
A = DRAW.normal(size=(5, 5))
A, B = A @ A.T, DRAW.normal(size=5)
C = np.diag(np.arange(1.0, 6.0))


def quadratics(params, stats, batch, key, step):
    """T = ½ wᵀ A w in two terms, and R = ½ wᵀ C w + bᵀ w."""
    w = jnp.concatenate([params["a"]["w"], params["b"]["w"]])
    task, other = 0.5 * w @ A @ w, 0.5 * w @ C @ w + B @ w
    return {"task": 0.25 * task, "task/more": 0.75 * task, "other": other}, Aux(stats, {"seen": w.sum()})


def slope_of(objective, w):
    """Value, gradient and metrics."""

    def run(w):
        terms, aux = objective({"a": {"w": w[:2]}, "b": {"w": w[2:]}}, {}, {}, None, 0)
        return total(terms), values(aux.metrics)

    (value, found), slope = jax.jit(jax.value_and_grad(run, has_aux=True))(jnp.asarray(w))
    return value, slope, found


@pytest.mark.parametrize("together", [False, True])
def test_the_gradient_of_quadratics_is_their_closed_form(together):
    w = DRAW.normal(size=5)
    with jax.enable_x64(True):
        value, slope, found = slope_of(sdat(quadratics, RHO, terms=("task",), together=together), w)
    far = w + RHO * A @ w / np.linalg.norm(A @ w)
    at = far if together else w
    np.testing.assert_allclose(value, 0.5 * far @ A @ far + 0.5 * at @ C @ at + B @ at, rtol=1e-12)
    np.testing.assert_allclose(slope, A @ far + C @ at + B, rtol=1e-12)
    rise = 0.5 * far @ A @ far - 0.5 * w @ A @ w
    np.testing.assert_allclose(found["task_sharpness"], 0.25 * rise, rtol=1e-12)
    np.testing.assert_allclose(found["task/more_sharpness"], 0.75 * rise, rtol=1e-12)
    np.testing.assert_allclose(found["seen"], w.sum(), rtol=1e-12)


def test_frozen_parameters_neither_move_nor_count_in_the_norm():
    w = DRAW.normal(size=5)
    with jax.enable_x64(True):
        objective = sdat(quadratics, RHO, terms=("task",), trainable=select("b/.*"))
        value, slope, _ = slope_of(objective, w)
    g = A @ w * (np.arange(5) >= 2)
    far = w + RHO * g / np.linalg.norm(g)
    np.testing.assert_allclose(value, 0.5 * far @ A @ far + 0.5 * w @ C @ w + B @ w, rtol=1e-12)
    np.testing.assert_allclose(slope, A @ far + C @ w + B, rtol=1e-12)


def test_with_all_terms_the_step_is_that_of_optax_sam(key):
    rows = batch(masked=True)
    net = network(backbone=normed(8), head=top(3))
    objective, variables = finetune(net), net.init(key, rows["x"])
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    steps = (
        make_step(sdat(objective, RHO, terms=("loss",)), optax.sgd(0.1)),
        make_step(objective, optax.contrib.sam(optax.sgd(0.1), adversary, opaque_mode=True)),
        make_step(objective, optax.sgd(0.1)),
    )
    ours, theirs, plain = (jax.jit(step)(step.init(variables, key), rows) for step in steps)
    assert largest_difference(ours[0].params, theirs[0].params) < 1e-6
    assert largest_difference(ours[0].params, plain[0].params) > 1e-4
    assert largest_difference(ours[0].stats, theirs[0].stats) < 1e-6
    np.testing.assert_allclose(ours[1]["accuracy"], theirs[1]["accuracy"])
    np.testing.assert_allclose(ours[1]["loss"], theirs[1]["loss"] + ours[1]["loss_sharpness"], rtol=1e-5)


def rows():
    target = {"x": batch(n=24, seed=1)["x"] + 0.5, "mask": np.arange(24) % 3 > 0}
    return {"source": batch(n=16, masked=True), "target": target}


def test_a_step_of_adversarial_training_is_two_passes_by_hand_on_one_device_and_on_eight(key):
    data = rows()
    net, critic, variables = parts(key, data["source"]["x"], critic=True)
    plain = adapt(net, alignments=[dann(critic, 0.7)])
    step = make_step(sdat(plain, RHO), optax.sgd(0.5))
    start, run = step.init(variables, key), jax.jit(step)
    one, metrics = run(start, data)

    @jax.jit
    def by_hand(params):
        def term(params, names):
            found = plain(params, {}, data, key, 0)[0]
            return sum(found[name].value for name in names)

        g = jax.grad(term)(params, ["source"])
        length = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(g)))
        far = jax.tree.map(lambda p, d: p + RHO * d / length, params, g)
        rest = jax.grad(term)(params, ["critic_source", "critic_target"])
        moved = jax.tree.map(lambda p, a, b: p - 0.5 * (a + b), params, jax.grad(term)(far, ["source"]), rest)
        return moved, term(far, ["source"]), term(params, ["source"])

    wanted, far, near = by_hand(variables.params)
    assert largest_difference(one.params, wanted) < 1e-6
    np.testing.assert_allclose(metrics["source"], far, rtol=1e-5)
    np.testing.assert_allclose(metrics["source_sharpness"], far - near, rtol=1e-4)
    assert float(far - near) > 0.1
    eight, many = pmap_step(step)(replicated(start), split_batch(data))
    assert largest_difference(unreplicated(eight).params, wanted) < 1e-6
    np.testing.assert_allclose(np.ravel(many["source_sharpness"])[0], far - near, rtol=1e-4)
    spoilt = {
        d: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for d, part in data.items()
    }
    assert largest_difference(run(start, spoilt)[0].params, wanted) < 1e-6
    none = {**data, "source": {**data["source"], "mask": np.zeros(16, bool)}}
    after, alone = run(start, none)
    assert (float(alone["source"]), float(alone["source_sharpness"])) == (0.0, 0.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_bfloat16_moves_the_float32_weights(key):
    """A loss whose gradient is w itself shows the weights of the second pass; ε̂ is below half of their last bit."""

    def squares(params, stats, batch, key, step):
        assert params["w"].dtype == jnp.bfloat16
        return mean((params["w"] ** 2).astype(jnp.float32) * batch["x"]), Aux(stats, {})

    w = jnp.asarray(np.random.default_rng(0).uniform(1, 2, 256), jnp.float32)
    step = make_step(sdat(squares, 0.016, terms=("loss",)), optax.sgd(1.0), dtype=jnp.bfloat16)
    state, _ = jax.jit(step)(step.init(Variables({"w": w}, {}), key), {"x": np.ones(256, np.float32)})
    seen = (w - state.params["w"]) * 128
    first = w.astype(jnp.bfloat16).astype(jnp.float32)
    wanted = (w + 0.016 * first / jnp.linalg.norm(first)).astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(seen, wanted, atol=1e-3)
    share = np.mean(np.asarray(wanted) != np.asarray(first))
    assert 0.05 < share < 0.5  # those near half of a last bit; moved after the cast, none would be


def test_what_does_not_fit_is_refused():
    for radius in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="radius="):
            sdat(quadratics, radius)
    for terms in ((), "source"):
        with pytest.raises(ValueError, match=r"sdat: terms=.* give one or several names"):
            sdat(quadratics, terms=terms)
    codes = {"a": {"w": jnp.ones(2)}, "b": {"codes": jnp.ones(3, jnp.int8)}}  # of a quantised kernel
    with pytest.raises(ValueError, match=r"sdat: 'b/codes' has whole numbers .* trainable="):
        sdat(quadratics, terms=("task",))(codes, {}, {}, None, 0)
    with pytest.raises(ValueError, match=r"no term 'source', only \['other', 'task', 'task/more'\]"):
        slope_of(sdat(quadratics), np.ones(5, np.float32))
    assert (climb({"a": jnp.zeros(3)}, 0.5)["a"] == 0).all()

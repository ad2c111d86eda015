"""Mixout against the authors' formula, and what holds for any objective."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, parts

from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.l2_sp import l2_sp
from jtl.methods.finetune.mixout import mixout, mixture
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.params import flatten, select
from jtl.train.step import make_step
from jtl.typing import Aux

KEY = jax.random.key(0)
ROWS = batch()
NET, _, START = parts(KEY, ROWS["x"])


def test_the_mixture_is_the_authors_and_its_expectation_is_w():
    draw = np.random.default_rng(0)
    w, u = (draw.normal(size=(900, 4)).astype(np.float32) for _ in range(2))
    mixed = np.asarray(mixture(w, u, 0.7, KEY))
    of_start = (mixed == u)[:, :1]
    np.testing.assert_allclose(of_start.mean(), 0.7, atol=0.05)
    # theirs: ((1 − m) u + m w − p u) / (1 − p), with one m for all weights from an input
    np.testing.assert_allclose(mixed, (np.where(of_start, u, w) - 0.7 * u) / 0.3, rtol=1e-4, atol=1e-5)
    keys = jax.random.split(KEY, 4000)
    mean = jax.jit(lambda keys: jax.vmap(lambda key: mixture(w[:9], u[:9], 0.7, key))(keys).mean(0))(keys)
    np.testing.assert_allclose(mean, w[:9], atol=0.35)
    assert np.abs(w - u)[:9].max() > 1
    np.testing.assert_array_equal(mixture(w, np.zeros_like(w), 0.0, KEY), w)
    half = jnp.asarray(u, jnp.bfloat16)
    np.testing.assert_array_equal(mixture(half, u, 0.9, KEY), half.astype(jnp.float32))


def test_a_unit_is_an_input_channel_of_a_convolution_and_a_number_of_a_vector():
    kept = np.asarray(mixture(np.ones((3, 3, 50, 8)), np.zeros((3, 3, 50, 8)), 0.5, KEY)) > 0
    assert (kept == kept[:1, :1, :, :1]).all()
    assert 10 < kept[0, 0, :, 0].sum() < 40
    assert 10 < np.count_nonzero(mixture(np.ones(50), np.zeros(50), 0.5, KEY)) < 40


def squares(params, stats, rows, key, step):
    """`½ ‖w‖²`, whose gradient is w."""
    del rows, key, step
    return 0.5 * sum((w**2).sum() for w in jax.tree.leaves(params)), Aux(stats)


def test_the_gradient_is_that_at_the_mixture_times_what_was_kept():
    objective = mixout(squares, 0.5, mixed=select("backbone/.*/kernel"))
    start = objective.init(KEY, ROWS, START)
    assert all(path.endswith("kernel") for path in flatten(start.stats["mixout"]))
    moved = jax.tree.map(lambda w: w + 0.1, START.params)
    slopes = flatten(jax.jit(jax.grad(lambda p: objective(p, start.stats, ROWS, KEY, 0)[0]))(moved))
    for path, w in flatten(moved).items():
        if path in flatten(start.stats["mixout"]):
            kept = np.asarray(slopes[path]) != 0
            assert 0 < kept.mean() < 1
            w = np.where(kept, 2 * (np.asarray(flatten(START.params)[path]) + 0.2), 0)
        np.testing.assert_allclose(slopes[path], w, rtol=1e-4, atol=1e-5)


def test_draws_differ_between_parameters_and_keys_but_not_between_calls():
    objective = mixout(lambda p, s, b, k, t: (0.0, Aux(s, outputs={"at": p})), 0.5)
    params = {"backbone": {"a": jnp.ones(99), "b": jnp.ones(99)}, "head": jnp.ones(99)}
    stats = objective.init(KEY, ROWS, Variables(jax.tree.map(jnp.zeros_like, params), {})).stats
    at, again, other = (objective(params, stats, ROWS, jax.random.key(k), 0)[1].outputs["at"] for k in (0, 0, 1))
    assert set(at["backbone"]["a"].tolist()) == {0.0, 2.0}
    assert not np.array_equal(at["backbone"]["a"], at["backbone"]["b"])
    assert not np.array_equal(at["backbone"]["a"], other["backbone"]["a"])
    jax.tree.map(np.testing.assert_array_equal, at, again)
    np.testing.assert_array_equal(at["head"], params["head"])


def test_at_the_start_and_with_p_0_it_is_the_objective():
    inner = finetune(NET)
    plain = jax.jit(lambda params: total(inner(params, {}, ROWS, KEY, 0)[0]))
    for p, params in ((0.9, START.params), (0.0, jax.tree.map(lambda w: 1.5 * w, START.params))):
        objective = mixout(inner, p)
        stats = objective.init(KEY, ROWS, START).stats
        found = jax.jit(lambda p, o=objective, s=stats: total(o(p, s, ROWS, KEY, 0)[0]))(params)
        np.testing.assert_allclose(found, plain(params), rtol=1e-5)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_terms_inside_see_the_parameters_and_w0_stays(dtype):
    objective = mixout(finetune(NET, lambda z, y: 0.0 * z.sum(-1), [l2_sp(0.5)], metrics={}), 0.8)
    start = objective.init(KEY, ROWS, START)
    moved = jax.tree.map(lambda w: w + 2.0**-12, START.params)
    step = make_step(objective, optax.sgd(1.0), dtype=dtype, microbatch=2)
    after, metrics = jax.jit(step)(step.init(Variables(moved, start.stats), KEY), ROWS)
    count = sum(w.size for w in jax.tree.leaves(START.params["backbone"]))
    np.testing.assert_allclose(metrics["l2_sp"], 0.25 * 2.0**-24 * count, rtol=1e-3)
    for path, w in flatten(after.params["backbone"]).items():  # w − 0.5 (w − w⁰), in which nothing is drawn
        np.testing.assert_allclose(w - flatten(START.params["backbone"])[path], 2.0**-13, rtol=1e-2)
    jax.tree.map(np.testing.assert_array_equal, after.stats["mixout"]["backbone"], START.params["backbone"])


def test_bfloat16_mixes_before_the_cast():
    seen = lambda p, s, b, k, t: ((p["backbone"]["w"].astype(jnp.float32) ** 2).sum(), Aux(s))  # noqa: E731
    objective = mixout(seen, 0.5)
    start = Variables({"backbone": {"w": jnp.full(200, 1.0)}}, {})
    stats = objective.init(KEY, ROWS, start).stats
    step = make_step(objective, optax.sgd(0.0), dtype=jnp.bfloat16)
    moved = Variables({"backbone": {"w": jnp.full(200, 1.0 + 2.0**-8)}}, stats)  # in bfloat16 it is 1
    _, metrics = jax.jit(step)(step.init(moved, KEY), ROWS)
    kept = round((float(metrics["loss"]) - 200) / ((1 + 2.0**-7) ** 2 - 1))  # at 1 + 2⁻⁷, which bfloat16 has
    assert 60 < kept < 140


def test_frozen_parameters_stay_pretrained():
    objective = mixout(finetune(NET), 0.9)
    start = objective.init(KEY, ROWS, START)
    step = make_step(objective, optax.sgd(0.1), trainable=select("head/.*"))
    after, metrics = jax.jit(step)(step.init(start, KEY), ROWS)
    jax.tree.map(np.testing.assert_array_equal, after.params["backbone"], START.params["backbone"])
    plain = jax.jit(lambda params: total(finetune(NET)(params, {}, ROWS, KEY, 0)[0]))
    np.testing.assert_allclose(metrics["loss"], plain(START.params), rtol=1e-5)


def test_bad_input_raises():
    for p in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"p={p}"):
            mixout(squares, p)
    objective = mixout(squares, 0.5)
    with pytest.raises(ValueError, match="give a key"):
        objective(START.params, objective.init(KEY, ROWS, START).stats, ROWS, None, 0)
    with pytest.raises(ValueError, match="already hold 'mixout'"):
        mixout(objective, 0.5).init(KEY, ROWS, START)
    with pytest.raises(ValueError, match="'backbone/w' is of int8, which has no gradient: `mixed` must"):
        objective.init(KEY, ROWS, Variables({"backbone": {"w": np.zeros(2, np.int8)}}, {}))
    with pytest.raises(ValueError, match="selects no parameter"):
        mixout(squares, 0.5, mixed=lambda params: jax.tree.map(lambda w: False, params)).init(KEY, ROWS, START)

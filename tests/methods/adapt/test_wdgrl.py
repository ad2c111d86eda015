"""WDGRL against the slope of a critic written by hand, and a distance that is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import largest_difference, normed, top

from jtl import heads, rng
from jtl.methods.adapt.views import View
from jtl.methods.adapt.wdgrl import between, wdgrl
from jtl.metrics.accumulate import total
from jtl.model import from_linen


def views(n=(6, 9), width=4, masked=True):
    draw = np.random.default_rng(0)
    return {
        name: View(
            {"pooled": jnp.asarray(draw.normal(size=(rows, width)))}, jnp.zeros((rows, 3)), None, None,
            jnp.asarray(draw.random(rows) < 0.7) if masked else None, {},
        )
        for name, rows in zip(("source", "target"), n, strict=True)
    }  # fmt: skip


class Soft(nn.Module):
    """w · tanh(A h): its slope Aᵀ (w (1 − tanh²)) is known."""

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dense(1, use_bias=False, name="out")(jnp.tanh(nn.Dense(5, use_bias=False, name="in")(x)))


def test_value_and_gradient_are_the_formula_row_by_row(key):
    with jax.enable_x64():
        looked, objective, draw = views(), wdgrl(from_linen(Soft()), 0.5, penalty=3.0), np.random.default_rng(1)
        a, w = draw.normal(size=(4, 5)), draw.normal(size=(5, 1))

        def params(a, w):
            return {"critic": {"in": {"kernel": jnp.asarray(a)}, "out": {"kernel": jnp.asarray(w)}}}

        f, g = (np.asarray(looked[n].features["pooled"]) for n in ("source", "target"))
        points, counts = between(
            jnp.asarray(f), jnp.asarray(g), looked["source"].mask, looked["target"].mask, rng.stream(key, "between")
        )

        def by_hand(a, w, f=f, g=g):
            c = [(np.tanh(x[np.asarray(looked[n].mask)] @ a) @ w).mean() for n, x in (("source", f), ("target", g))]
            slopes = [a @ (w[:, 0] * (1 - np.tanh(h @ a) ** 2)) for h in np.asarray(points)[np.asarray(counts)]]
            return c[1] - c[0] + 3 * np.mean([(np.linalg.norm(s) - 1) ** 2 for s in slopes])

        def run(params, f=f):
            now = looked | {"source": looked["source"]._replace(features={"pooled": f})}
            return total(objective(params, {}, now, key, 0)[0])

        value, slope = jax.value_and_grad(run)(params(a, w))
        np.testing.assert_allclose(value, by_hand(a, w), rtol=1e-12)
        for i, j in ((0, 0), (3, 4), (2, 1)):
            nudge = np.zeros_like(a)
            nudge[i, j] = 1e-5
            expected = (by_hand(a + nudge, w) - by_hand(a - nudge, w)) / 2e-5
            np.testing.assert_allclose(slope["critic"]["in"]["kernel"][i, j], expected, atol=1e-7)
        of_f = jax.grad(run, argnums=1)(params(a, w), jnp.asarray(f))
        kept = np.asarray(looked["source"].mask)[:, None]
        row = -((1 - np.tanh(f @ a) ** 2) * w[:, 0][None]) @ a.T / kept.sum()
        np.testing.assert_allclose(of_f, -0.5 * np.where(kept, row, 0), atol=1e-12)  # no part of the penalty


def test_points_lie_between_pairs(key):
    f, g = jnp.zeros((2, 3)), jnp.ones((4, 3))
    points, counts = between(f, g, None, jnp.array([True, False, True, True]), key)
    assert points.shape == (8, 3)
    u = points[6:, :1]
    np.testing.assert_array_equal(points[6:], jnp.broadcast_to(u, (2, 3)))  # all on the line
    assert bool(((u > 0) & (u < 1)).all())
    assert float(jnp.abs(u[0] - u[1]).max()) > 0
    assert counts.tolist() == [True, True, True, False, True, True, True, False]


def test_the_distance_of_two_shifted_clouds_is_their_shift(key):
    """A target moved by 2 in one direction lies at Wasserstein distance 2; the penalty leaves it a little above."""
    looked = views(n=(64, 64), masked=False)
    f = looked["source"].features["pooled"].astype(jnp.float32)
    shift = jnp.zeros((1, 4)).at[0, 1].set(2.0)
    looked = {n: v._replace(features={"pooled": f if n == "source" else f - shift}) for n, v in looked.items()}
    objective = wdgrl(heads.mlp(1, (16,)))
    tx = optax.adam(3e-3)
    params = objective.init(key, looked).params

    @jax.jit
    def trained(params):
        def move(carry, i):
            params, opt = carry
            slope = jax.grad(lambda p: total(objective(p, {}, looked, jax.random.fold_in(key, i), 0)[0]))(params)
            change, opt = tx.update(slope, opt)
            return (optax.apply_updates(params, change), opt), None

        return jax.lax.scan(move, (params, tx.init(params)), jnp.arange(600))[0][0]

    _, aux = objective(trained(params), {}, looked, key, 0)
    assert 1.9 < float(aux.metrics["critic_distance"].value) < 2.5


def test_masked_rows_and_a_flat_critic_have_finite_gradients(key):
    clean, objective = views(), wdgrl(top(1))
    variables = objective.init(key, clean)
    run = jax.jit(jax.value_and_grad(lambda params, looked: total(objective(params, {}, looked, key, 0)[0])))

    def broken(v):
        return v._replace(features={"pooled": jnp.where(v.mask[:, None], v.features["pooled"], jnp.nan)})

    expected = run(variables.params, clean)
    assert largest_difference(run(variables.params, {n: broken(v) for n, v in clean.items()}), expected) < 1e-6
    none = clean | {"target": clean["target"]._replace(mask=jnp.zeros(9, bool))}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(variables.params, none)))
    assert float(objective(variables.params, {}, none, key, 0)[1].metrics["critic_distance"].value) == 0
    flat = run(jax.tree.map(jnp.zeros_like, variables.params), clean)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(flat))
    np.testing.assert_allclose(flat[0], 10.0, rtol=1e-6)  # γ (0 − 1)²


def test_what_does_not_fit_is_refused(key):
    with pytest.raises(ValueError, match="penalty=0"):
        wdgrl(penalty=0)
    looked = views()
    with pytest.raises(ValueError, match="running statistics"):
        wdgrl(normed(1)).init(key, looked)
    two = wdgrl(top(2))
    with pytest.raises(ValueError, match=r"the critic returns \(15, 2\) for 15 rows"):
        two(two.init(key, looked).params, {}, looked, key, 0)

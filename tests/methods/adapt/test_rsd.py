"""RSD against the formula in numpy's SVD, finite differences, and what holds for any basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, top

from jtl import alignments, losses
from jtl.methods.adapt.rsd import rsd_loss
from jtl.metrics.accumulate import total
from jtl.networks import network

DRAW = np.random.default_rng(0)
S, T = DRAW.normal(size=(5, 12)), DRAW.normal(size=(5, 12))


def by_numpy(s, t, mismatch):
    us, ut = (np.linalg.svd(a.T, full_matrices=False)[0] for a in (s, t))
    p, cos, qt = np.linalg.svd(us.T @ ut)
    return np.sqrt(1 - cos**2).sum() + mismatch * np.linalg.norm(np.abs(p) - np.abs(qt.T))


@pytest.mark.parametrize("mismatch", [0.0, 0.7])
def test_the_value_is_the_papers(mismatch):
    with jax.enable_x64(True):
        found = float(rsd_loss(jnp.asarray(S), jnp.asarray(T), mismatch=mismatch))
    np.testing.assert_allclose(found, by_numpy(S, T, mismatch), rtol=1e-9)


def test_the_gradient_is_that_of_differences():
    with jax.enable_x64(True):
        along = jnp.asarray(DRAW.normal(size=S.shape)), jnp.asarray(DRAW.normal(size=T.shape))
        loss = lambda s, t: rsd_loss(s, t, mismatch=0.7)  # noqa: E731
        g = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(S), jnp.asarray(T))
        slope = sum(float((a * b).sum()) for a, b in zip(g, along, strict=True))
        h = 1e-6
        ahead, behind = (by_numpy(S + k * np.asarray(along[0]), T + k * np.asarray(along[1]), 0.7) for k in (h, -h))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("rows", [(5, 5), (3, 5), (5, 3)])
@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4])
def test_small_angles_have_their_digits(apart, rows):
    """`sqrt(1 − cos²)` of float32 has none below 1e-3; the reference is the residual's nuclear norm in float64."""
    s = np.random.default_rng(2).normal(size=(max(rows), 40))
    t = s + apart * np.random.default_rng(3).normal(size=s.shape)
    s, t = s[: rows[0]].astype(np.float32), t[: rows[1]].astype(np.float32)

    def exact(s, t):
        small, large = (np.linalg.qr(a.T)[0] for a in sorted((s, t), key=len))
        return np.linalg.svd(small - large @ (large.T @ small), compute_uv=False).sum()

    value, (g, h) = GRAD(s, t)
    wide = s.astype(np.float64), t.astype(np.float64)
    np.testing.assert_allclose(value, exact(*wide), rtol=2e-6 / apart)
    along = [np.random.default_rng(i).normal(size=a.shape) for i, a in enumerate(wide)]
    step = 1e-4 * apart
    ahead, behind = (exact(*(a + k * b for a, b in zip(wide, along, strict=True))) for k in (step, -step))
    slope = float((g * along[0]).sum() + (h * along[1]).sum())
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-5 / apart)


def test_equal_subspaces_have_neither_value_nor_gradient():
    s = np.random.default_rng(2).normal(size=(5, 40)).astype(np.float32)
    value, (g, h) = GRAD(s, 2 * s[::-1])
    assert value == 0
    assert (np.asarray(g) == 0).all()
    assert (np.asarray(h) == 0).all()


def test_masked_rows_and_the_scale_do_not_count():
    bad = np.concatenate([S, np.full((2, 12), np.nan)]).astype(np.float32)
    mask = np.arange(7) < 5
    run = jax.jit(jax.value_and_grad(lambda s, t, m: rsd_loss(s, t, m)))
    value, gradient = run(bad, T.astype(np.float32), mask)
    alone, own = jax.jit(jax.value_and_grad(rsd_loss))(S.astype(np.float32), T.astype(np.float32))
    np.testing.assert_allclose(value, alone, rtol=1e-5)
    np.testing.assert_allclose(gradient[:5], own, atol=2e-5)
    assert (np.asarray(gradient[5:]) == 0).all()
    np.testing.assert_allclose(rsd_loss(9 * S, 0.1 * T, mismatch=0.0), rsd_loss(S, T, mismatch=0.0), rtol=1e-5)
    value, gradient = run(bad, T.astype(np.float32), np.zeros(7, bool))
    assert value == 0
    assert (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize("s", [np.eye(3, 6), np.ones((3, 6)), np.zeros((3, 6)), 2 * np.eye(3, 6, 1)])
@pytest.mark.parametrize("t", [np.eye(3, 6), np.zeros((3, 6)), np.eye(3, 6, 3)])
def test_equal_singular_values_have_finite_gradients(s, t):
    value, g = GRAD(jnp.asarray(s, jnp.float32), jnp.asarray(t, jnp.float32))
    assert np.isfinite(value)
    assert all(np.isfinite(a).all() for a in g)
    if (s == np.eye(3, 6)).all() and (t == np.eye(3, 6, 3)).all():
        np.testing.assert_allclose(value, 3.0, rtol=1e-6)  # three right angles


GRAD = jax.jit(jax.value_and_grad(lambda s, t: rsd_loss(s, t, mismatch=0.0), argnums=(0, 1)))


def test_it_aligns_a_regression():
    net = network(backbone=dense(16), head=top(1))
    rows = batch(n=6)
    rows = {"source": {"x": rows["x"], "y": rows["x"][:, 0]}, "target": {"x": batch(n=6, seed=1)["x"]}}
    loss = lambda out, y: losses.mse(out[:, 0], y)  # noqa: E731
    objective = alignments.adapt(net, loss, [alignments.rsd(0.5)], metrics={})
    variables = objective.init(jax.random.key(0), rows)
    terms, _ = jax.jit(objective.loss)(variables.params, variables.stats, rows, jax.random.key(0), 0)
    views = [net.apply(variables, rows[d]["x"], train=False)[0].features["pooled"] for d in rows]
    np.testing.assert_allclose(total({"rsd": terms["rsd"]}), 0.5 * rsd_loss(*views), rtol=1e-4)
    with pytest.raises(ValueError, match=r"mismatch=-1\.0"):
        alignments.rsd(mismatch=-1.0)

"""VAT against the papers' finite differences in numpy, the exact eigenvector, and a gradient with constants held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, largest_difference, normed, top

from jtl import alignments, heads, rng
from jtl.methods.adapt.vat import perturbation
from jtl.methods.views import View
from jtl.metrics.accumulate import as_terms
from jtl.networks import network

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))
DRAW = np.random.default_rng(0)
W, B, V = DRAW.normal(size=(5, 7)), DRAW.normal(size=7), 2 * DRAW.normal(size=(7, 3))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(z, other):
    p, q = softmax(z), softmax(other)
    return (p * (np.log(p) - np.log(q))).sum(-1)


def unit(d):
    return d / np.sqrt((d**2).reshape(len(d), -1).sum(1)).reshape((-1,) + (1,) * (d.ndim - 1))


def by_differences(logits, x, d, iterations, xi=1e-3, h=1e-5):
    """The papers' power iteration: d ← the gradient of the divergence at ξ d, here by central differences."""
    z, d = logits(x), unit(d)
    for _ in range(iterations):
        g = np.zeros_like(x)
        for j in range(x.shape[1]):
            e = h * np.eye(x.shape[1])[j]
            g[:, j] = (kl(z, logits(x + xi * d + e)) - kl(z, logits(x + xi * d - e))) / (2 * h)
        d = unit(g)
    return d


def test_the_shift_is_that_of_differences():
    x = np.random.default_rng(1).normal(size=(6, 5))
    with jax.enable_x64(True):
        logits = lambda x: jnp.tanh(x @ W + B[None]) @ V  # noqa: E731
        z, shift = perturbation(logits, jnp.asarray(x), KEY, radius=0.7, iterations=2)
        start = np.asarray(jax.random.normal(KEY, x.shape))
    wanted = by_differences(lambda x: np.tanh(x @ W + B) @ V, x, start, 2)
    np.testing.assert_allclose(z, np.tanh(x @ W + B) @ V, rtol=1e-12)
    np.testing.assert_allclose(shift, 0.7 * wanted, atol=2e-3)  # ξ is 0 here, and 1e-3 there


def test_many_iterations_find_the_direction_of_the_largest_curvature():
    x = np.random.default_rng(2).normal(size=(4, 3, 2, 1)).astype(np.float32)
    w = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
    z, shift = perturbation(lambda x: x.reshape(4, 6) @ w, jnp.asarray(x), KEY, radius=2.0, iterations=60)
    assert shift.shape == x.shape
    for p, r in zip(softmax(np.asarray(z)), np.asarray(shift).reshape(4, 6), strict=True):
        direction = np.linalg.eigh(w @ (np.diag(p) - np.outer(p, p)) @ w.T)[1][:, -1]
        np.testing.assert_allclose(abs(r @ direction), 2.0, rtol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(r), 2.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e3, 12.0, 0.0])
def test_certain_and_flat_predictions_have_a_shift_of_the_radius(scale):
    x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 4)), jnp.float32)
    w = scale * jnp.asarray(np.random.default_rng(3).normal(size=(4, 3)), jnp.float32)
    _, shift = perturbation(lambda x: x @ w, x, KEY, radius=2.0)
    np.testing.assert_allclose(np.linalg.norm(shift, axis=1), 2.0, rtol=1e-6)
    if scale == 12.0:  # 1 − p is below the precision of p: the direction is that of float64
        wide = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
        p = softmax(wide)
        v = unit(np.asarray(jax.random.normal(KEY, x.shape), np.float64)) @ np.asarray(w, np.float64)
        assert (1 - p.max(1)).min() < 1e-7
        v -= v[np.arange(5), p.argmax(1)][:, None]
        g = (p * (v - (p * v).sum(1, keepdims=True))) @ np.asarray(w, np.float64).T
        np.testing.assert_allclose(shift, 2 * unit(g), atol=1e-4)


def data():
    target = {"x": batch(n=12, seed=1)["x"], "mask": np.arange(12) % 4 != 1}
    return {"source": batch(n=8), "target": target}


def test_value_and_gradient_are_those_of_a_constant_shift_and_prediction():
    rows = data()
    objective = alignments.adapt(NET, alignments=[alignments.vat(NET, 0.5, radius=1.5)])
    variables = objective.init(KEY, rows)

    def term(params):
        loss, aux = objective(params, {}, rows, KEY, 0)
        return as_terms(loss)["vat"].value, aux.metrics["vat_agrees"].value

    (value, agrees), gradient = jax.jit(jax.value_and_grad(term, has_aux=True))(variables.params)
    x, kept = jnp.asarray(rows["target"]["x"]), rows["target"]["mask"]

    def said(params, x):
        return NET.apply(variables._replace(params=params), x, train=False)[0].output

    start = rng.stream(rng.stream(rng.stream(KEY, "alignment", 0), "vat"), "start")
    z, shift = perturbation(lambda x: said(variables.params, x), x, start, radius=1.5)
    p, moved = softmax(np.asarray(z)), np.asarray(said(variables.params, x + shift))
    np.testing.assert_allclose(value, 0.5 * kl(np.asarray(z), moved)[kept].mean(), rtol=1e-5)
    np.testing.assert_allclose(agrees, (p.argmax(1) == moved.argmax(1))[kept].mean())

    def plain(params):  # the cross-entropy with the constant prediction differs from the divergence by a constant
        return -0.5 * (p * jax.nn.log_softmax(said(params, x + shift)))[kept].sum() / kept.sum()

    wanted = jax.jit(jax.grad(plain))(variables.params)
    assert largest_difference(gradient, wanted) < 1e-6
    assert largest_difference(wanted, jax.tree.map(jnp.zeros_like, wanted)) > 1e-2
    assert float(value) > 1e-2


def test_batch_norm_and_dropout_add_nothing_and_the_statistics_stay():
    """Both passes have one batch and one dropout, so what is left is the square of the radius."""
    net, rows = network(backbone=normed(8), head=heads.linear(3, dropout=0.5)), data()
    plain, objective = alignments.adapt(net), alignments.adapt(net, alignments=[alignments.vat(net, radius=1e-2)])
    variables = plain.init(KEY, rows)

    @jax.jit
    def both(params, stats):
        terms, aux = objective(params, stats, rows, KEY, 0)
        return terms["vat"].value, aux.stats, plain(params, stats, rows, KEY, 0)[1].stats

    value, found, wanted = both(*variables)
    assert 1e-6 < value < 1e-4
    assert largest_difference(found, wanted) < 1e-7
    assert largest_difference(found, variables.stats) > 1e-3


def test_half_precision_has_the_same_direction():
    x, w = (jnp.asarray(DRAW.normal(size=shape), jnp.bfloat16) for shape in ((4, 6), (6, 3)))
    half, wide = (
        perturbation(lambda x, w=w: (x @ w.astype(x.dtype)).astype(jnp.float32), x, KEY, radius=1.0)[1]
        for x in (x, x.astype(jnp.float32))
    )
    assert half.dtype == jnp.bfloat16
    assert np.einsum("ij,ij->i", np.asarray(half, np.float32), wide).min() > 0.99


def test_what_does_not_fit_is_refused():
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"radius={bad}"):
            alignments.vat(NET, radius=bad)
    with pytest.raises(ValueError, match="iterations=0"):
        alignments.vat(NET, iterations=0)
    term, view = alignments.vat(NET), View({}, jnp.zeros((12, 3)), None, None, None, {})
    for x, told in (
        (np.ones((12, 5), np.int32), r"the inputs of 'target' are int32 \(12, 5\): .* not token ids"),
        ({"ids": np.ones((12, 5), np.int32)}, r"are a tree of {'ids': 'int32 \(12, 5\)'}"),
    ):
        with pytest.raises(ValueError, match=told):
            term({}, {}, {"target": view._replace(x=x)}, KEY, 0)
    net = network(backbone=normed(8), head=top(3))
    objective = alignments.adapt(net, alignments=[alignments.vat(net)], own_norms=("target",))
    variables = jax.eval_shape(lambda: objective.init(KEY, data()))
    with pytest.raises(ValueError, match="vat predicts 'target' by the network's own normalisation layers"):
        jax.eval_shape(lambda v: objective(v.params, v.stats, data(), KEY, 0)[0], variables)

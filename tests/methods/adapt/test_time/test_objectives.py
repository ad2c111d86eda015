"""EATA, SAR, CoTTA and ROID against their formulas by hand, in torch where a gradient is compared."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import closed_over
from nets import dense, largest_difference, top

from jtl import rng
from jtl.methods.adapt.test_time.cotta import cotta
from jtl.methods.adapt.test_time.eata import eata, fisher_information
from jtl.methods.adapt.test_time.roid import roid, roid_weights, soft_likelihood_ratio
from jtl.methods.adapt.test_time.sar import sar
from jtl.methods.adapt.test_time.stream import restore, stream
from jtl.metrics.accumulate import as_terms, total
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten, select

NET = network(backbone=dense(8), head=top(4))
HEAD = select("head/.*")
X = 2 * np.random.default_rng(3).normal(size=(20, 5)).astype(np.float32)
BATCH = {"x": X}
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def variables():
    made = NET.init(jax.random.key(0), X)
    kernel = 4 * made.params["head"]["out"]["kernel"]  # some rows are certain
    return made._replace(params={**made.params, "head": {"out": {**made.params["head"]["out"], "kernel": kernel}}})


def softmax(z):
    e = np.exp(np.asarray(z, np.float64) - np.max(z, 1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def entropies(z):
    p = softmax(z)
    return -(p * np.log(p)).sum(1)


def logits(params, x=X):
    return np.asarray(NET.apply(Variables(params, {}), x, train=False)[0].output)


def value_and_grad(objective, variables, batch=BATCH, stats=None):
    made = objective.init(KEY, batch, variables)

    def loss(params):
        value, aux = objective(params, made.stats if stats is None else stats, batch, KEY, 0)
        return total(as_terms(value)), aux

    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(made.params)
    return float(value), aux, grads


def test_eata_learns_from_reliable_and_new_rows(variables):
    z = logits(variables.params)
    h, p = entropies(z), softmax(z)
    limit = 0.5 * math.log(4)
    objective = eata(NET, margin=0.5, near=0.4)
    value, aux, _ = value_and_grad(objective, variables)
    first = h < limit
    assert 0 < first.sum() < len(h)
    np.testing.assert_allclose(value, (np.exp(limit - h) * h)[first].mean(), rtol=1e-4)
    mean = p[first].mean(0)
    np.testing.assert_allclose(aux.stats["eata"]["mean"], mean, rtol=1e-4)
    value, aux, _ = value_and_grad(objective, variables, stats=aux.stats)
    cosine = p @ mean / np.linalg.norm(p, axis=1) / np.linalg.norm(mean)
    second = first & (np.abs(cosine) < 0.4)
    assert 0 < second.sum() < first.sum()
    np.testing.assert_allclose(value, (np.exp(limit - h) * h)[second].mean(), rtol=1e-4)
    np.testing.assert_allclose(aux.stats["eata"]["mean"], 0.9 * mean + 0.1 * p[second].mean(0), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["selected"].value, second.mean(), rtol=1e-6)


def test_the_weight_of_a_row_has_no_gradient(variables):
    """`exp(E − H)` held constant: the gradient by head parameters of Σ w H, w from the values."""
    _, _, grads = value_and_grad(eata(NET, near=1.0), variables)
    z = logits(variables.params)
    h, limit = entropies(z), 0.4 * math.log(4)
    chosen = (h < limit).astype(np.float64)
    p = softmax(z)
    weights = chosen * np.exp(limit - h) / chosen.sum()
    slope = -p * (np.log(p) + h[:, None]) * weights[:, None]  # ∂H/∂z_c = −p_c (log p_c + H)
    np.testing.assert_allclose(grads["head"]["out"]["bias"], slope.sum(0), atol=1e-5)


def test_no_reliable_row_gives_zero_and_no_gradient(variables):
    flat = jax.tree.map(jnp.zeros_like, variables)
    for objective in (eata(NET, near=0.4), sar(NET, trainable=HEAD)):
        value, _, grads = value_and_grad(objective, flat)
        assert value == 0
        assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_fisher_information_weighs_distances(variables):
    fisher, start = fisher_information(NET, variables, [X[:10], X[10:]], trainable=HEAD)
    expected = np.zeros(4)
    for part in (X[:10], X[10:]):
        p = softmax(logits(variables.params, part))
        expected += (p - np.eye(4)[p.argmax(1)]).mean(0) ** 2 / 2
    np.testing.assert_allclose(fisher["head"]["out"]["bias"], expected, rtol=1e-4)
    objective = eata(NET, near=0.4, fisher=(fisher, start), weight=5.0)
    moved = jax.tree.map(lambda a: a + 0.1, variables)
    term = value_and_grad(objective, moved)[0] - value_and_grad(eata(NET, near=0.4), moved)[0]
    by_hand = 5 * sum(float((f * 0.01).sum()) for f in flatten(fisher).values())
    np.testing.assert_allclose(term, by_hand, rtol=1e-3)
    with pytest.raises(ValueError, match="at least one batch"):
        fisher_information(NET, variables, [], trainable=HEAD)


def test_fisher_information_closes_over_no_variables(variables, monkeypatch):
    sizes = closed_over(monkeypatch)
    fisher_information(NET, variables, [X[:10], X[10:]], trainable=HEAD)
    assert sizes == [0, 0]


def test_sar_has_the_gradient_at_the_perturbed_point(variables):
    """By hand: the head's bias alone is perturbed, and ∂H/∂z is known."""
    limit, bias = 0.5 * math.log(4), np.asarray(variables.params["head"]["out"]["bias"], np.float64)
    z = logits(variables.params).astype(np.float64) - bias

    def slope(offset, chosen):
        p = softmax(z + offset)
        h = -(p * np.log(p)).sum(1)
        return h, (-p * (np.log(p) + h[:, None]))[chosen].mean(0)

    reliable = entropies(z + bias) < limit
    _, g = slope(bias, reliable)
    moved = bias + 1.5 * g / np.linalg.norm(g)
    chosen = reliable & (entropies(z + moved) < limit)
    assert (reliable & ~chosen).any()
    assert (~reliable & (entropies(z + moved) < limit)).any(), "a row of the second choice alone does not count"
    h, expected = slope(moved, chosen)
    value, aux, grads = value_and_grad(sar(NET, trainable=select("head/out/bias"), radius=1.5, margin=0.5), variables)
    np.testing.assert_allclose(value, h[chosen].mean(), rtol=1e-4)
    np.testing.assert_allclose(grads["head"]["out"]["bias"], expected, atol=1e-5)
    np.testing.assert_allclose(aux.outputs["output"], z + bias, atol=1e-5)  # of before the update
    np.testing.assert_allclose(aux.metrics["selected"].value, chosen.mean(), rtol=1e-6)


def test_cotta_learns_its_teachers_prediction(variables):
    """One step by hand: the averaged views are used where the source is not sure, and the teacher moves."""

    def shift(key, x):
        return x + jax.random.normal(key, x.shape)

    kept = np.arange(20) < 13
    each = softmax(logits(variables.params)).max(1)
    sure = each[kept].mean()
    assert abs(sure - each.mean()) > 0.015
    teacher = jax.tree.map(lambda a: 0.9 * a, variables.params)
    stats = {"cotta": {"teacher": teacher, "source": variables.params}}  # whose confidence decides
    for confident, averaged in ((sure - 0.01, False), (sure + 0.01, True)):
        objective = cotta(NET, shift, views=64, confident=float(confident), momentum=0.8)
        value, aux, _ = value_and_grad(objective, variables, {**BATCH, "mask": kept}, stats)
        target = np.asarray(aux.outputs["output"])
        p, q = softmax(logits(variables.params)), softmax(target)
        np.testing.assert_allclose(value, -(q * np.log(p)).sum(1)[kept].mean(), rtol=1e-4)
        assert np.allclose(target, logits(teacher), atol=1e-5) != averaged
    adapting = stream(objective, optax.sgd(0.1), trainable=select(".*"), after=restore(0.0))
    batch = {**BATCH, "mask": kept}  # of these rows the views are averaged
    state, _ = jax.jit(adapting.step)(adapting.init(variables, KEY, batch), batch)
    assert largest_difference(state.variables.params, variables.params) > 1e-3
    for path, teacher in flatten(state.variables.stats["cotta"]["teacher"]).items():
        before, after = flatten(variables.params)[path], flatten(state.variables.params)[path]
        np.testing.assert_allclose(teacher, 0.8 * before + 0.2 * after, atol=1e-6)


def test_cotta_averages_the_authors_32_views(variables):
    """Against a loop over the views, each with the key that its place gives it, in float64."""

    def shift(key, x):
        return x + jax.random.normal(key, x.shape)

    teacher = jax.tree.map(lambda a: 0.9 * a, variables.params)
    stats = {"cotta": {"teacher": teacher, "source": variables.params}}
    _, aux, _ = value_and_grad(cotta(NET, shift, confident=1.0), variables, stats=stats)
    root = rng.stream(KEY, "augment")
    views = [logits(teacher, shift(jax.random.fold_in(root, i), X)) for i in range(32)]
    np.testing.assert_allclose(aux.outputs["output"], np.mean(views, 0, dtype=np.float64), atol=1e-5)
    assert np.std(views, 0).min() > 0.1


def test_memory_does_not_grow_with_the_views(variables):
    batch = {"x": np.tile(X, (10, 1))}

    def held(views):
        objective = cotta(NET, lambda key, x: x + jax.random.normal(key, x.shape), views=views, confident=1.0)
        made = objective.init(KEY, batch, variables)
        run = jax.jit(lambda params: objective(params, made.stats, batch, KEY, 0)[1].outputs)
        return run.lower(made.params).compile().memory_analysis().temp_size_in_bytes

    assert held(32) < held(2) + batch["x"].nbytes


def test_an_average_of_equal_views_is_the_view(variables):
    objective = cotta(NET, lambda key, x: x, views=3, confident=1.0)
    _, aux, _ = value_and_grad(objective, variables)
    np.testing.assert_allclose(aux.outputs["output"], logits(variables.params), atol=1e-5)


def roid_by_hand(z, average, temperature):
    p = softmax(z)
    d = 1 - p @ average / np.linalg.norm(p, axis=1) / np.linalg.norm(average)
    d = (d - d.min()) / (d.max() - d.min())
    s = -entropies(z)
    s = (s - s.min()) / (s.max() - s.min())
    return np.where(d < d.mean(), 0, np.exp(d * s / temperature))


def test_roid_weighs_certain_and_diverse_rows(variables):
    z, average = logits(variables.params), np.array([0.4, 0.3, 0.2, 0.1])
    expected = roid_by_hand(z, average, 0.5)
    assert 0 < (expected > 0).sum() < len(z)
    found = roid_weights(jnp.asarray(z), jnp.asarray(average, jnp.float32), jnp.ones(20, bool), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    rows = np.arange(24) < 20
    more = jnp.concatenate([jnp.asarray(z), jnp.full((4, 4), 100.0)])
    np.testing.assert_allclose(
        roid_weights(more, jnp.asarray(average, jnp.float32), jnp.asarray(rows), 0.5)[:20], found, rtol=1e-5
    )
    alike = roid_weights(jnp.ones((20, 4)), jnp.asarray(average, jnp.float32), jnp.ones(20, bool), 0.5)
    np.testing.assert_array_equal(alike, 1)  # none is less diverse than the mean


def test_a_batch_without_rows_leaves_moving_averages(variables):
    nothing, average = {**BATCH, "mask": np.zeros(20, bool)}, jnp.array([0.4, 0.3, 0.2, 0.1])
    for objective, stats in (
        (roid(NET, None), {"roid": average}),
        (eata(NET, near=0.4), {"eata": {"mean": average, "seen": jnp.array(True)}}),
        (sar(NET, trainable=HEAD), {}),
    ):
        value, aux, grads = value_and_grad(objective, variables, nothing, stats)
        assert value == aux.metrics["selected"].count == 0
        assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads))
        jax.tree.map(np.testing.assert_array_equal, aux.stats, stats)


def test_roid_is_its_formula(variables):
    value, aux, grads = value_and_grad(roid(NET, lambda key, x: -x, temperature=0.5, momentum=0.8), variables)
    z, other = (logits(variables.params, x).astype(np.float64) for x in (X, -X))
    p, w = softmax(z), roid_by_hand(z, np.full(4, 0.25), 0.5)

    def loss(shift):
        p, q = softmax(z + shift), softmax(other + shift)
        clipped = np.minimum(p, 0.99)
        ratio = -(clipped * np.log(clipped / (1 - clipped) + 1e-5)).sum(1)
        return (w * (ratio - 0.5 * ((p * np.log(q)).sum(1) + (q * np.log(p)).sum(1)))).mean()

    np.testing.assert_allclose(value, loss(0), rtol=1e-3)
    slope = [(loss(e) - loss(-e)) / 2e-6 for e in 1e-6 * np.eye(4)]  # w is held constant
    np.testing.assert_allclose(grads["head"]["out"]["bias"], slope, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(aux.metrics["selected"].value, (w > 0).mean(), rtol=1e-6)
    np.testing.assert_allclose(aux.stats["roid"], 0.8 * 0.25 + 0.2 * p.mean(0), rtol=1e-4)
    prior = p.mean(0)
    smooth = max(1 / 20, 1 / 4) / prior.max()
    np.testing.assert_allclose(softmax(np.asarray(aux.outputs["output"])), normalised(p * (prior + smooth)), rtol=1e-4)


def normalised(p):
    return p / p.sum(1, keepdims=True)


def test_the_likelihood_ratio_still_learns_from_certain_rows():
    grads = jax.grad(lambda z: soft_likelihood_ratio(z).sum())(jnp.array([[4.0, 0.0]]))
    assert float(jnp.abs(grads).max()) > 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: eata(NET, near=0), "near=0"),
        (lambda: eata(NET, near=0.4, margin=2), "margin=2"),
        (lambda: sar(NET, radius=0), "radius=0"),
        (lambda: cotta(NET, lambda k, x: x, confident=2), "confident=2"),
        (lambda: cotta(NET, lambda k, x: x, confident=0.5, views=0), "views=0"),
        (lambda: roid(NET, None, temperature=0), "temperature=0"),
        (lambda: roid(NET, None, temperature=float("inf")), "temperature=inf"),
    ],
)
def test_numbers_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

"""Fishr against the closed form of a linear head and against torch's gradients row by row; masks, parts, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, parts, top

from jtl import heads
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.fishr import fishr
from jtl.methods.adapt.views import View
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network
from jtl.reads import whole
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

NAMES = ("a", "b", "c")
SIZES = {"a": 6, "b": 8, "c": 10}
HEADS = {"linear": heads.linear(3), "mlp": heads.mlp(3, (5,)), "cosine": heads.cosine(3)}


def views(seed=0):
    """Features of three domains that differ in their scale; of each some rows count, and some of these twice."""
    draw = np.random.default_rng(seed)
    return {
        name: View({"pooled": jnp.asarray(draw.normal(size=(n, 4)) * (i + 1))}, jnp.zeros((n, 3)), jnp.zeros((n, 1)),
                   jnp.asarray(draw.integers(0, 3, n)), jnp.arange(n) % 5 != i,
                   {"weights": jnp.asarray(draw.integers(1, 3, n))})
        for i, (name, n) in enumerate(SIZES.items())
    }  # fmt: skip


def rows_of(view):
    """The rows that count, one of weight 2 twice."""
    return np.repeat(np.arange(len(view.y)), np.where(view.mask, view.rows["weights"], 0))


def made(head, **options):
    net = network(backbone=dense(4), head=head)
    params = {"head": head.init(jax.random.key(0), jnp.zeros((1, 4))).params}
    term = fishr(net, NAMES, **options)
    return jax.jit(term.loss), term.init(jax.random.key(0), {}, Variables(params, {}))


def penalty(sums):
    s = np.stack(sums)
    return np.mean([((one - s.mean(0)) ** 2).mean() for one in s])


def test_two_steps_are_those_of_the_closed_form():
    """Of cross-entropy on a linear head: `g = f ⊗ (p − e_y)` and, for the bias, `p − e_y`."""
    with jax.enable_x64():
        term, (params, stats) = made(HEADS["linear"], weight=lambda step: 2.0 + step, momentum=0.8)
        kernel, bias = (np.asarray(params["head"]["out"][n], np.float64) for n in ("kernel", "bias"))
        sums = {name: 0.0 for name in NAMES}
        for step in range(2):
            looked = views(step)
            for name, view in looked.items():
                rows = rows_of(view)
                f = np.asarray(view.features["pooled"])[rows]
                e = np.exp(f @ kernel + bias)
                r = e / e.sum(1, keepdims=True) - np.eye(3)[np.asarray(view.y)[rows]]
                g = np.concatenate([r, (f[:, :, None] * r[:, None]).reshape(len(f), -1)], 1)
                sums[name] = g.var(0) + 0.8 * sums[name]
            loss, aux = term(params, stats, looked, None, step)
            stats = aux.stats
            np.testing.assert_allclose(total(loss), (2 + step) * penalty(list(sums.values())), rtol=1e-6)
            np.testing.assert_allclose(stats["fishr"], list(sums.values()), rtol=1e-6)
            assert float(aux.metrics["fishr_weight"]) == 2 + step


def logits_of_torch(kind, p, f):
    import torch

    if kind == "mlp":
        f = torch.relu(f @ p["hidden1"]["kernel"] + p["hidden1"]["bias"])
    if kind == "cosine":
        unit = torch.nn.functional.normalize
        return unit(f, dim=-1) @ unit(p["out"]["kernel"], dim=0) / 0.1
    return f @ p["out"]["kernel"] + p["out"]["bias"]


@pytest.mark.parametrize("kind", HEADS)
def test_value_and_gradient_are_those_of_torch_row_by_row(kind):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    with jax.enable_x64():
        term, (params, stats) = made(HEADS[kind], weight=1.0)
        params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        looked = views()
        old = jnp.asarray(np.random.default_rng(1).random(stats["fishr"].shape))

        def run(params, features):
            seen = {n: v._replace(features={"pooled": features[n]}) for n, v in looked.items()}
            return total(term(params, {"fishr": old}, seen, None, 0)[0])

        features = {n: v.features["pooled"] for n, v in looked.items()}
        value, (slopes, moves) = jax.device_get(jax.jit(jax.value_and_grad(run, (0, 1)))(params, features))
    p = jax.tree.map(lambda a: torch.tensor(np.asarray(a), requires_grad=True), params["head"])
    given = {n: torch.tensor(np.asarray(f), requires_grad=True) for n, f in features.items()}
    leaves, sums = jax.tree.leaves(p), []
    for i, (name, view) in enumerate(looked.items()):
        grads = []
        for row in rows_of(view):
            z = logits_of_torch(kind, p, given[name][row])
            one = torch.nn.functional.cross_entropy(z[None], torch.tensor([int(view.y[row])]))
            grads.append(torch.cat([g.ravel() for g in torch.autograd.grad(one, leaves, create_graph=True)]))
        sums.append(torch.stack(grads).var(0, unbiased=False) + 0.95 * torch.tensor(np.asarray(old[i])))
    s = torch.stack(sums)
    theirs = ((s - s.mean(0)) ** 2).mean(1).mean()
    wanted = torch.autograd.grad(theirs, [*leaves, *given.values()], allow_unused=True)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-6)
    for ours, theirs in zip([*jax.tree.leaves(slopes), *moves.values()], wanted, strict=True):
        np.testing.assert_allclose(ours, 0 if theirs is None else theirs, rtol=1e-5, atol=1e-7)
    assert max(np.abs(leaf).max() for leaf in moves.values()) > 1e-4


def test_masked_rows_and_empty_domains():
    term, (params, stats) = made(HEADS["linear"], weight=1.0, momentum=0.5)
    stats = {"fishr": stats["fishr"] + jnp.arange(3.0)[:, None]}
    looked = views()

    def value(looked, features):
        seen = {n: v._replace(features={"pooled": features[n]}) for n, v in looked.items()}
        loss, aux = term(params, stats, seen, None, 0)
        return total(loss), aux.stats["fishr"]

    run = jax.jit(jax.value_and_grad(value, 1, has_aux=True))
    features = {n: v.features["pooled"] for n, v in looked.items()}
    bad = {n: jnp.where(v.mask[:, None], features[n], jnp.nan) for n, v in looked.items()}
    assert largest_difference(run(looked, bad), run(looked, features)) < 1e-6
    none = looked | {"c": looked["c"]._replace(mask=jnp.zeros(SIZES["c"], bool))}
    (found, kept), _ = run(none, bad)
    np.testing.assert_allclose(found, penalty(kept[:2]), rtol=1e-5)
    np.testing.assert_array_equal(kept[2], stats["fishr"][2])
    nothing = {n: v._replace(mask=jnp.zeros(SIZES[n], bool)) for n, v in looked.items()}
    (found, kept), gradient = run(nothing, bad)
    assert found == 0
    np.testing.assert_array_equal(kept, stats["fishr"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_row_of_several_elements_has_the_gradient_of_their_mean():
    """Tokens of weight 0 count as little as rows of weight 0."""
    head = heads.per_position(3, reads=whole("last"))
    draw = np.random.default_rng(0)
    looked, short = {}, {}
    for name in NAMES:
        f, y = jnp.asarray(draw.normal(size=(5, 4, 4)), jnp.float32), jnp.asarray(draw.integers(0, 3, (5, 4)))
        keep = jnp.arange(4) < 3
        looked[name] = View(
            {"last": f}, jnp.zeros((5, 4, 3)), jnp.zeros((5, 1)), y, None, {"weights": jnp.tile(keep, (5, 1))}
        )
        short[name] = View({"last": f[:, :3]}, jnp.zeros((5, 3, 3)), jnp.zeros((5, 1)), y[:, :3], None, {})
    term, (params, stats) = made(head, weight=1.0, momentum=0.0)
    assert stats == {}
    found, wanted = (float(total(term(params, {}, v, None, 0)[0])) for v in (looked, short))
    assert found == pytest.approx(wanted, rel=1e-5)
    assert wanted > 1e-9


def test_eight_devices_and_a_state_that_is_given(key):
    rows = {n: batch(n=16, seed=i, masked=True) for i, n in enumerate(NAMES)}
    net, _, _ = parts(key, rows["a"]["x"])
    objective = adapt(net, alignments=[fishr(net, NAMES)], labelled=NAMES)
    step, made = make_step(objective, optax.sgd(0.1)), objective.init(key, rows)
    start = step.init(made, key)
    one, metrics = jax.jit(step)(start, rows)
    eight, many = pmap_step(step)(replicated(start), split_batch(rows))
    assert largest_difference(unreplicated(eight).params, one.params) < 1e-5
    np.testing.assert_allclose(unreplicated(eight).stats["fishr"], one.stats["fishr"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(np.ravel(many["fishr"])[0], metrics["fishr"], rtol=1e-4)
    given = objective.init(key, rows, made._replace(stats=one.stats))
    assert largest_difference(given.stats, one.stats) == 0
    with pytest.raises(ValueError, match="already hold 'fishr'"):
        objective.init(key, rows, made._replace(stats={"fishr": jnp.zeros(2)}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: fishr(net, ("a",)), "domains="),
        (lambda net: fishr(net, NAMES, -1.0), "weight=-1.0"),
        (lambda net: fishr(net, NAMES, momentum=1.0), r"momentum=1.0: must be a number in \[0, 1\)"),
        (lambda net: fishr(net, NAMES, head="tail"), r"no head 'tail', only \['head'\]"),
        (lambda net: fishr(net, NAMES, head="backbone"), "no head 'backbone'"),
        (lambda net: fishr(top(3), NAMES), "this model has no parts"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(network(backbone=dense(4), head=top(3)))

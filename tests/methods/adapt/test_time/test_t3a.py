"""T3A against a dictionary of lists, and AdaBN against the statistics by hand."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from counting import closed_over
from nets import dense, normed, top

from jtl.methods.adapt.test_time.ada_bn import ada_bn
from jtl.methods.adapt.test_time.t3a import t3a
from jtl.model import Model, Variables, from_linen
from jtl.networks import network
from jtl.nn.batch_norm import BatchNorm
from jtl.nn.layers import DropPath

NET = network(backbone=dense(6), head=top(3))
DRAW = np.random.default_rng(0)
BATCHES = [DRAW.normal(size=(9, 5)).astype(np.float32) for _ in range(3)]


def entropy(z):
    e = np.exp(z - z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return -(p * np.log(p)).sum(1)


@pytest.mark.parametrize("capacity", [1, 4, 40])
def test_supports_are_the_most_certain_features(capacity):
    """The authors' rule: a batch joins before it is predicted, and what is left out once never comes back."""
    variables = NET.init(jax.random.key(0), BATCHES[0])
    kernel, bias = np.asarray(variables.params["head"]["out"]["kernel"]), np.array([0.5, -0.4, 0.1], np.float32)
    variables.params["head"]["out"]["bias"] = bias  # it is in the entropies and labels, and not in the predictions
    method = t3a(NET, capacity=capacity)
    supports, step = method.init(variables), jax.jit(method.step)
    kept = {c: [(entropy(kernel[:, c][None] @ kernel + bias)[0], kernel[:, c])] for c in range(3)}
    for x in BATCHES:
        supports, found = step(variables, supports, {"x": x})
        out = NET.apply(variables, x, train=False)[0]
        z, h = np.asarray(out.read), entropy(np.asarray(out.output))
        for row, certainty, c in zip(z, h, np.asarray(out.output).argmax(1), strict=True):
            kept[int(c)].append((certainty, row))
        centres = []
        for c in range(3):
            kept[c] = sorted(kept[c], key=lambda pair: pair[0])[:capacity]
            lengths = [max(np.linalg.norm(s), 1e-12) for _, s in kept[c]]
            centre = np.sum([s / n for (_, s), n in zip(kept[c], lengths, strict=True)], axis=0)
            centres.append(centre / np.linalg.norm(centre))
        np.testing.assert_allclose(found, z @ np.stack(centres).T, atol=1e-4)


def test_masked_rows_support_nothing():
    variables = NET.init(jax.random.key(0), BATCHES[0])
    method = t3a(NET, capacity=4)
    bad = np.concatenate([BATCHES[0], np.full((2, 5), np.nan, np.float32)])
    masked, found = method.step(variables, method.init(variables), {"x": bad, "mask": np.arange(11) < 9})
    plain, expected = method.step(variables, method.init(variables), {"x": BATCHES[0]})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), masked, plain)
    np.testing.assert_allclose(found[:9], expected, rtol=1e-6)


def test_a_head_that_is_not_linear_is_told():
    with pytest.raises(ValueError, match="no parameter 'head/last/kernel'"):
        t3a(NET, kernel="head/last/kernel").init(NET.init(jax.random.key(0), BATCHES[0]))
    with pytest.raises(ValueError, match="capacity=0"):
        t3a(NET, capacity=0)


def pooled(h):
    """The variance over the rows of all batches, of each of which the own one is unbiased."""
    middle = np.concatenate(h).mean(0)
    return sum(len(a) * (a.var(0, ddof=1) + (a.mean(0) - middle) ** 2) for a in h) / sum(map(len, h))


@pytest.mark.parametrize("sizes", [(64, 64), (120, 8)])
def test_ada_bn_of_sorted_and_uneven_batches_is_that_of_all_rows(sizes):
    """A mean of the batches' own variances leaves out what their means differ by."""
    net = network(backbone=normed(6), head=top(3))
    x = np.random.default_rng(0).normal(size=(128, 5)).astype(np.float32) + 10 * (np.arange(128) >= 64)[:, None]
    variables = net.init(jax.random.key(0), x)
    found = ada_bn(net, variables, np.split(x, [sizes[0]])).stats["backbone"]["norm"]
    h = x @ np.asarray(variables.params["backbone"]["layer"]["kernel"])
    np.testing.assert_allclose(found["mean"], h.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["var"], h.var(0), rtol=2e-2)  # of batches it is unbiased, by n / (n − 1)


def test_ada_bn_closes_over_no_variables(monkeypatch):
    net = network(backbone=normed(6), head=top(3))
    variables = net.init(jax.random.key(0), BATCHES[0])
    sizes = closed_over(monkeypatch)
    ada_bn(net, variables, BATCHES)
    assert sizes == [0] * len(BATCHES)


def test_ada_bn_has_the_targets_statistics():
    net = network(backbone=normed(6), head=top(3))
    variables = net.init(jax.random.key(0), BATCHES[0])
    moved = ada_bn(net, variables, BATCHES)
    h = [x @ np.asarray(variables.params["backbone"]["layer"]["kernel"]) for x in BATCHES]
    found = moved.stats["backbone"]["norm"]
    np.testing.assert_allclose(found["mean"], np.concatenate(h).mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["var"], pooled(h), rtol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, moved.params, variables.params)
    with pytest.raises(ValueError, match="at least one batch"):
        ada_bn(net, variables, [])
    with pytest.raises(ValueError, match="no running statistics"):
        ada_bn(NET, NET.init(jax.random.key(0), BATCHES[0]), BATCHES)


def test_ada_bn_leaves_what_no_pass_moves():
    """A frozen layer's statistics and a counter stay; one that moves by its own momentum is the target's."""

    def apply(variables, x, *, train, key=None):
        stats = variables.stats
        moved = stats | {"mean": 0.75 * stats["mean"] + 0.25 * x.mean(0), "seen": stats["seen"] + 1}
        return x, moved if train else stats

    before = {"mean": np.ones(5, np.float32), "fixed": np.full(5, 7, np.float32), "seen": np.int32(3)}
    net = Model(lambda key, x: Variables({}, before), apply)
    found = ada_bn(net, Variables({}, before), BATCHES).stats
    np.testing.assert_allclose(found["mean"], np.mean([x.mean(0) for x in BATCHES], axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["fixed"], before["fixed"])
    assert (int(found["seen"]), found["seen"].dtype) == (3, np.int32)
    frozen = net._replace(apply=lambda variables, x, **_: (x, variables.stats))
    with pytest.raises(ValueError, match=r"moves none of the running statistics \['fixed', 'mean', 'seen'\]"):
        ada_bn(frozen, Variables({}, before), BATCHES)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
def test_ada_bn_is_exact_for_large_activations(scale):
    """As of raw pixels: the momentum is recovered beside a statistic of 1e8."""
    net = network(backbone=normed(6), head=top(3))
    variables = net.init(jax.random.key(0), BATCHES[0])
    moved = ada_bn(net, variables, [scale * x for x in BATCHES]).stats["backbone"]["norm"]
    h = [scale * x.astype(np.float64) @ np.asarray(variables.params["backbone"]["layer"]["kernel"]) for x in BATCHES]
    np.testing.assert_allclose(moved["var"], pooled(h), rtol=1e-4)


def test_ada_bn_sees_no_stochastic_depth():
    """Its statistics are those of the network that predicts."""

    class Dropped(nn.Module):
        rate: float

        @nn.compact
        def __call__(self, x, train):
            x = DropPath(self.rate)(nn.Dropout(self.rate)(x, deterministic=not train), train)
            return {"pooled": BatchNorm(name="norm")(x, train)}

    found = []
    for rate in (0.0, 0.5):
        net = network(backbone=from_linen(Dropped(rate)), head=top(3))
        found.append(ada_bn(net, net.init(jax.random.key(0), BATCHES[0]), BATCHES).stats)
    jax.tree.map(np.testing.assert_array_equal, *found)

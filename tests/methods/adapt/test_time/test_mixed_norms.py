"""Mixed statistics against the formula by hand, and against torch's layer where it has one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jtl import heads, ops
from jtl.methods.adapt.test_time.mixed_norms import mixed
from jtl.model import Variables, from_linen, from_nnx
from jtl.networks import network
from jtl.nn.batch_norm import BatchNorm
from jtl.transform.remat import checkpointed

DRAW = np.random.default_rng(0)
X = (2 * DRAW.normal(size=(6, 4, 4, 3)) + 1).astype(np.float32)


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(name="norm")(x, train)


class Flax(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(not train, name="norm", epsilon=1e-5)(nn.Dropout(0.5, deterministic=not train)(x))


def variables_of(channels=3):
    draw = np.random.default_rng(1)
    layers = [{name: draw.uniform(0.5, 2, channels).astype(np.float32) for name in pair}
              for pair in (("scale", "bias"), ("mean", "var"))]  # fmt: skip
    return Variables({"norm": layers[0]}, {"norm": layers[1]})


def by_hand(x, variables, share, rows, unbiased):
    """In float64; y, and the two mixtures."""
    p, r = (jax.tree.map(np.float64, tree["norm"]) for tree in variables)
    seen = np.asarray(x, np.float64)[rows].reshape(-1, x.shape[-1])
    mean = (1 - share) * r["mean"] + share * seen.mean(0)
    var = (1 - share) * r["var"] + share * seen.var(0, ddof=int(unbiased))
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"], mean, var


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("module", [Own(), Flax()], ids=["own", "flax"])
def test_a_layer_is_its_formula(module, share):
    variables, rows = variables_of(), np.array([1, 1, 0, 1, 1, 0], bool)
    for as_running, chosen in ((False, None), (True, None), (False, jnp.asarray(rows))):
        apply = mixed(from_linen(module), share, rows=chosen, as_running=as_running).apply
        y, stats = jax.jit(lambda v, apply=apply: apply(v, X, train=False))(variables)
        expected, mean, var = by_hand(X, variables, share, slice(None) if chosen is None else rows, as_running)
        np.testing.assert_allclose(y, expected, atol=2e-5)
        np.testing.assert_allclose(stats["norm"]["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(stats["norm"]["var"], var, rtol=1e-5)


def test_the_running_statistics_alone_are_evaluation():
    for module in (Own(), Flax()):
        net, variables = from_linen(module), variables_of()
        y, stats = mixed(net, 0.0).apply(variables, X, train=True)
        np.testing.assert_allclose(y, net.apply(variables, jnp.asarray(X), train=False)[0], atol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, stats, variables.stats)


@pytest.mark.parametrize("as_running", [False, True])
def test_the_gradient_is_torchs(as_running):
    """Through the batch's statistics, or with these held constant."""
    torch = pytest.importorskip("torch")
    variables, share = variables_of(), 0.3
    net, weights = mixed(from_linen(Own()), share, as_running=as_running), DRAW.normal(size=X.shape).astype(np.float32)
    found = jax.grad(lambda x: (net.apply(variables, x, train=True)[0] * weights).sum())(X)
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    p, r = ({name: torch.tensor(np.float64(a)) for name, a in tree["norm"].items()} for tree in variables)
    flat = x.reshape(-1, 3)
    mean, var = flat.mean(0), flat.var(0, unbiased=as_running)
    if as_running:
        mean, var = mean.detach(), var.detach()
    mean, var = (1 - share) * r["mean"] + share * mean, (1 - share) * r["var"] + share * var
    y = torch.nn.functional.batch_norm(flat, mean.detach(), var.detach(), eps=1e-5) if as_running else (
        (flat - mean) / torch.sqrt(var + 1e-5)
    )  # fmt: skip
    ((y * p["scale"] + p["bias"]).reshape(x.shape) * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(found, x.grad, atol=1e-5)


def test_masked_rows_reach_nothing_and_none_is_no_nan():
    variables, rows = variables_of(), np.arange(6) < 4
    bad = np.where(rows[:, None, None, None], X, 1e30).astype(np.float32)
    whole, few = (mixed(from_linen(Own()), 0.5, rows=r).apply(variables, x, train=True)
                  for r, x in ((jnp.ones(4, bool), X[:4]), (jnp.asarray(rows), bad)))  # fmt: skip
    np.testing.assert_allclose(few[0][:4], whole[0], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), few[1], whole[1])
    none = mixed(from_linen(Own()), 0.5, rows=jnp.zeros(6, bool)).apply(variables, X, train=True)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(none))
    with pytest.raises(ValueError, match="sees 6 rows of a batch of 4"):
        mixed(from_linen(Own()), 0.5, rows=jnp.ones(4, bool)).apply(variables, X, train=True)


def test_a_mapped_batch_is_the_whole_batch():
    variables, rows = variables_of(), np.array([1, 1, 0, 1, 1, 1], bool)
    apart = jax.vmap(
        lambda x, r: mixed(from_linen(Own()), 0.5, rows=r, as_running=True).apply(variables, x, train=True),
        axis_name=ops.BATCH_AXIS,
    )(X.reshape(2, 3, *X.shape[1:]), rows.reshape(2, 3))
    y, stats = mixed(from_linen(Own()), 0.5, rows=jnp.asarray(rows), as_running=True).apply(variables, X, train=True)
    np.testing.assert_allclose(apart[0].reshape(X.shape), y, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5), apart[1], stats)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.relu(BatchNorm(name="norm")(nn.Dense(5, name="dense")(x), train))


class Two(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for name in ("block1", "block2"):
            x = Block(name=name)(x, train)
        return {"pooled": x.mean((1, 2))}


def test_upper_layers_see_the_lower_mixtures_also_when_rematerialised():
    net = network(backbone=from_linen(Two()), head=heads.linear(2))
    variables = net.init(jax.random.key(0), X)
    out, stats = mixed(net, 0.5).apply(variables, X, train=True)
    p, h = jax.tree.map(np.asarray, variables.params["backbone"]), X
    for name in ("block1", "block2"):
        dense, norm = p[name]["dense"], p[name]["norm"]
        layer = Variables({"norm": norm}, {"norm": variables.stats["backbone"][name]["norm"]})
        h, mean, _ = by_hand(h @ dense["kernel"] + dense["bias"], layer, 0.5, slice(None), 0)
        h = np.maximum(h, 0)
        np.testing.assert_allclose(stats["backbone"][name]["norm"]["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(out.read, h.mean((1, 2)), atol=1e-5)
    found = []
    for each in (mixed(net, 0.5), mixed(checkpointed(net), 0.5)):

        def value(params, each=each):
            out, stats = each.apply(Variables(params, variables.stats), X, train=True)
            return (out.output[:, 0] ** 2).sum(), stats

        found.append(jax.jit(jax.grad(value, has_aux=True))(variables.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *found)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(found[0][0])) > 0.1


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return {"pooled": self.norm(x)}


def test_statistics_that_cannot_be_mixed_are_refused():
    net = from_nnx(Nnx)
    with pytest.raises(ValueError, match=r"no BatchNorm of jtl or flax.linen"):
        mixed(net, 0.5).apply(net.init(jax.random.key(0), X), X, train=True)

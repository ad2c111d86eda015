"""MEMO against its formula in float64 and in torch, and what adapting one input at a time means."""

import jax
import numpy as np
import optax
import pytest
from nets import dense, normed, top

from jtl import rng
from jtl.methods.adapt.test_time.memo import memo
from jtl.methods.adapt.test_time.stream import stream
from jtl.metrics.accumulate import as_terms, total
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten, select

NET = network(backbone=normed(8), head=top(4))
DRAW = np.random.default_rng(3)
X = 2 * DRAW.normal(size=(6, 5)).astype(np.float32)
KEY = jax.random.key(1)
VIEWS = 7


def shift(key, x):
    return x + 0.5 * jax.random.normal(key, x.shape)


def copies(x, key=KEY):
    """[views, batch, ...], drawn as the method draws them."""
    return np.stack([shift(k, x) for k in jax.random.split(rng.stream(key, "augment"), VIEWS)])


@pytest.fixture(scope="module")
def variables():
    made = NET.init(jax.random.key(0), X)
    stats = {"backbone": {"norm": {name: DRAW.uniform(0.5, 2, 8).astype(np.float32) for name in ("mean", "var")}}}
    return Variables({**made.params, "head": jax.tree.map(lambda a: 3 * a, made.params["head"])}, stats)


def value_and_grad(objective, variables, batch):
    def loss(params):
        value, aux = objective(params, variables.stats, batch, KEY, 0)
        return total(as_terms(value)), aux

    (value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)
    return float(value), aux, grads


def in_torch(torch, params, stats, x, prior):
    """The logits, with the mixture held constant and unbiased, as the authors' code has it."""
    h = x @ params["backbone/layer/kernel"]
    mean, var = h.mean(0).detach(), h.var(0).detach() if len(h) > 1 else torch.zeros(8)
    r, n = {name: torch.tensor(np.float64(a)) for name, a in stats["backbone"]["norm"].items()}, prior
    mean, var = n / (n + 1) * r["mean"] + mean / (n + 1), n / (n + 1) * r["var"] + var / (n + 1)
    h = (h - mean) / torch.sqrt(var + 1e-5) * params["backbone/norm/scale"] + params["backbone/norm/bias"]
    return torch.relu(h) @ params["head/out/kernel"] + params["head/out/bias"]


@pytest.mark.parametrize(("rows", "prior"), [(1, 16.0), (3, 2.0)])
def test_value_gradient_and_prediction_are_those_of_torch(variables, rows, prior):
    torch = pytest.importorskip("torch")
    x = X[:rows]
    value, aux, grads = value_and_grad(memo(NET, shift, views=VIEWS, prior=prior), variables, {"x": x})
    params = {path: torch.tensor(np.float64(a), requires_grad=True) for path, a in flatten(variables.params).items()}
    views = torch.tensor(np.float64(copies(x)))
    z = in_torch(torch, params, variables.stats, views.reshape(-1, 5), prior).reshape(VIEWS, rows, 4)
    expected = torch.distributions.Categorical(probs=z.softmax(2).mean(0)).entropy().mean()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    for path, found in flatten(grads).items():
        np.testing.assert_allclose(found, params[path].grad, atol=1e-5, err_msg=path)
    alone = in_torch(torch, params, variables.stats, torch.tensor(np.float64(x)), prior)
    np.testing.assert_allclose(aux.outputs["output"], alone.detach(), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, aux.stats, variables.stats)


def test_equal_views_give_the_rows_entropy_and_an_infinite_prior_the_source(variables):
    value, aux, _ = value_and_grad(memo(NET, lambda key, x: x, views=3, prior=np.inf), variables, {"x": X})
    z = np.asarray(NET.apply(variables, X, train=False)[0].output, np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(aux.outputs["output"], z, atol=1e-5)
    np.testing.assert_allclose(value, -(p * np.log(p)).sum(1).mean(), rtol=1e-5)


def test_masked_rows_do_not_count_and_none_gives_zero():
    net = network(backbone=dense(8), head=top(4))
    made = net.init(jax.random.key(0), X)
    objective = memo(net, shift, views=VIEWS)
    bad = np.concatenate([X, np.full((2, 5), np.nan, np.float32)])

    def padded(key, x):
        return x + np.concatenate([np.zeros_like(X), np.ones((2, 5), np.float32)])

    plain = value_and_grad(memo(net, lambda key, x: x, views=2), made, {"x": X})
    masked = value_and_grad(memo(net, padded, views=2), made, {"x": bad, "mask": np.arange(8) < 6})
    np.testing.assert_allclose(masked[0], plain[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), masked[2], plain[2])
    value, _, grads = value_and_grad(objective, made, {"x": bad[-2:], "mask": np.zeros(2, bool)})
    assert value == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_each_input_starts_from_the_source(variables):
    """One program for all; every row's prediction is that after a step on this row alone, which sharpens it."""
    objective = memo(NET, shift, views=VIEWS)
    adapting = stream(objective, optax.sgd(0.1), trainable=select(".*"), episodic=True)
    start = adapting.init(variables, KEY, {"x": X[:1]})
    end, found = jax.jit(lambda s, x: jax.lax.scan(adapting.step, s, {"x": x}))(start, X[:, None])
    assert int(end.step) == len(X)

    @jax.jit
    def by_hand(x, key):
        def loss(params):
            value, aux = objective(params, variables.stats, {"x": x}, key, 0)
            return total(as_terms(value)), aux.outputs["output"]

        grads, before = jax.grad(loss, has_aux=True)(variables.params)
        return before, loss(jax.tree.map(lambda p, g: p - 0.1 * g, variables.params, grads))[1]

    for i in (0, 4):
        before, after = by_hand(X[i : i + 1], rng.stream(KEY, "stream", i))
        np.testing.assert_allclose(found[i], after, atol=1e-5)
        assert np.abs(after - before).max() > 1e-3


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="views=0"):
        memo(NET, shift, views=0)
    with pytest.raises(ValueError, match="prior=-1"):
        memo(NET, shift, prior=-1)

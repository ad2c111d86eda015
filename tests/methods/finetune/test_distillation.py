import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, parts, top

from jtl.losses import cross_entropy
from jtl.methods.finetune.distillation import distillation, divergence
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import total
from jtl.networks import network


def test_the_divergence_is_torchs():
    torch = pytest.importorskip("torch")
    z, t = (np.random.default_rng(i).normal(size=(6, 4)).astype(np.float32) for i in range(2))
    q, p = (torch.log_softmax(torch.tensor(a) / 3.0, -1) for a in (z, t))
    expected = 9 * torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(divergence(z, t, 3.0), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_masked_rows_reach_neither_the_value_nor_the_gradient(key):
    rows = batch(masked=True)
    net, _, teacher = parts(key, rows["x"])
    objective = finetune(net, terms=[distillation(net, teacher, 0.5)])
    start = objective.init(jax.random.key(7), rows)

    def loss(params, rows):
        terms, _ = objective(params, start.stats, rows, key, 0)
        return total({"distillation": terms["distillation"]})

    value, slope = jax.value_and_grad(loss)(start.params, rows)
    z, t = (np.asarray(net.apply(v, rows["x"], train=False)[0].output, np.float64) / 2 for v in (start, teacher))
    p, q = (np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in (t, z))
    each = 4 * (p * np.log(p / q)).sum(-1)
    np.testing.assert_allclose(value, 0.5 * each[rows["mask"]].mean(), rtol=1e-4)
    other = {**rows, "x": np.where(rows["mask"][:, None], rows["x"], np.nan)}
    again = jax.grad(loss)(start.params, other)
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_learning_without_forgetting_starts_at_zero_on_the_old_head(key):
    rows = batch()
    net = network(backbone=dense(8), old=top(4), new=top(3))
    start = net.init(key, rows["x"])
    term = distillation(net, start, head="old")
    objective = finetune(net, lambda z, y: cross_entropy(z["new"], y), [term], metrics={})
    variables = objective.init(key, rows, start)
    terms, _ = objective(variables.params, variables.stats, rows, key, 0)
    np.testing.assert_allclose(terms["distillation"].value, 0.0, atol=1e-6)
    moved = jax.tree.map(lambda w: 1.5 * w, variables.params)
    terms, _ = objective(moved, variables.stats, rows, key, 0)
    assert float(terms["distillation"].value) > 1e-3


def test_bad_input_raises(key):
    rows = batch()
    net, _, start = parts(key, rows["x"])
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        distillation(net, start, temperature=0.0)
    with pytest.raises(ValueError, match="equal shapes"):
        divergence(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    objective = finetune(net, terms=[distillation(net, start, head="old")])
    variables = objective.init(key, rows, start)
    with pytest.raises(ValueError, match="the network has one head"):
        objective(variables.params, variables.stats, rows, key, 0)
    with pytest.raises(ValueError, match="already hold 'distillation'"):
        finetune(net, terms=[distillation(net, start)] * 2).init(key, rows, start)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, parts, top

from jtl import heads
from jtl.losses import cross_entropy, mse
from jtl.methods.finetune.delta import delta
from jtl.methods.finetune.distillation import distillation, divergence
from jtl.methods.finetune.feature_distillation import feature_distillation
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import total
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.reads import whole


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


TOKENS = Model(
    lambda key, x: Variables({}, {}),
    lambda v, x, *, train, key=None: ({"last": x["ids"], "pooled": x["ids"][:, 0]}, v.stats),
)


def padded(tokens: int):
    """Two texts, of 5 and 3 tokens, with some tokens more that are padding."""
    ids = np.random.default_rng(0).normal(size=(2, 5 + tokens, 4)).astype(np.float32)
    ids[:, :5] = np.random.default_rng(1).normal(size=(2, 5, 4))
    mask = np.arange(5 + tokens)[None] < np.array([[5], [3]])
    return {"x": {"ids": ids, "mask": mask}, "y": np.where(mask, 1, -100).astype(np.int32)}


@pytest.mark.parametrize(
    "term",
    [
        distillation,
        lambda net, start: feature_distillation(net, start, feature="last", of_teacher="last"),
        lambda net, start: delta(net, start, {"last": None}, 1.0),
    ],
    ids=["distillation", "feature_distillation", "delta"],
)
def test_padding_tokens_do_not_count(key, term):
    def seen(scale):
        def apply(v, x, *, train, key=None):
            last = scale * jnp.asarray(x["ids"])
            return {"last": last, "pooled": last[:, 0]}, v.stats

        return Model(lambda key, x: Variables({}, {}), apply)

    net = network(backbone=seen(1.0), head=heads.linear(3, reads=whole("last")))
    teacher = network(backbone=seen(2.0), head=heads.linear(3, reads=whole("last")))
    start = net.init(key, padded(0)["x"])
    objective = finetune(net, terms=[term(teacher, start)], ignore=-100)
    found = []
    for tokens in (0, 4):
        variables = objective.init(key, padded(tokens), start)
        terms, _ = objective(variables.params, variables.stats, padded(tokens), key, 0)
        found.append({name: float(value.value) for name, value in terms.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_distillation_of_a_token_is_that_of_a_row(key):
    batch = padded(2)
    net = network(backbone=TOKENS, head=heads.linear(3, reads=whole("last")))
    start, teacher = (net.init(jax.random.key(i), batch["x"]) for i in range(2))
    objective = finetune(net, terms=[distillation(net, teacher)], ignore=-100)
    variables = objective.init(key, batch, start)
    terms, _ = objective(variables.params, variables.stats, batch, key, 0)
    z, t = (net.apply(v, batch["x"], train=False)[0].output for v in (start, teacher))
    expected = np.asarray(divergence(z, t, 2.0))[batch["x"]["mask"]].mean()
    np.testing.assert_allclose(terms["distillation"].value, expected, rtol=1e-5)


def test_outputs_that_are_no_logits_take_a_loss_of_their_own(key):
    rows = batch(classes=1)
    net, _, start = parts(key, rows["x"], classes=1)
    teacher = jax.tree.map(lambda a: a + 0.3, start)
    with pytest.raises(ValueError, match="of one class"):
        divergence(jnp.zeros((2, 1)), jnp.ones((2, 1)))
    objective = finetune(net, mse, [distillation(net, teacher, loss=mse)], metrics={})
    rows["y"] = rows["y"].astype(np.float32)[:, None]
    variables = objective.init(key, rows, start)
    terms, _ = objective(variables.params, variables.stats, rows, key, 0)
    z, t = (net.apply(v, rows["x"], train=False)[0].output for v in (start, teacher))
    np.testing.assert_allclose(terms["distillation"].value, ((z - t) ** 2).mean(), rtol=1e-5)

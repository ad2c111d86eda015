"""FEAT against numpy: attention over class means, and over all examples of a class for its regulariser."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_shot import few_shot, tasks_of
from nets import dense

from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.feat import SetToSet, feat, set_contrast
from jtl.methods.meta.maml import meta
from jtl.methods.meta.memory import memorise
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network

WAY = 3


@pytest.fixture(scope="module")
def case():
    """A task of 6 examples and 9 queries, its network without dropout, its variables with a memory, and features."""
    with jax.enable_x64(True):
        key = jax.random.key(0)
        net = network(backbone=dense(6), head=feat(temperature=2.0, dropout=0.0, attention_dropout=0.0))
        rows = few_shot(tasks=1)
        support, query = (tasks_of(rows[part])[0] for part in ("support", "query"))
        support["y"], query["y"] = (np.arange(n, dtype=np.int32) % WAY for n in (6, 9))
        draw = np.random.default_rng(0)
        shapes = jax.eval_shape(net.init, key, support["x"])
        start = jax.tree.map(lambda a: 0.5 * draw.normal(size=a.shape), shapes)  # biases and scales are no 0 and 1
        judge, plain = set_contrast(net, weight=0.3, temperature=3.0, dropout=0.0, attention_dropout=0.0), finetune(net)

        @jax.jit
        def run(query):
            fast = Variables(*memorise(net, way=WAY)(*start, support, key))
            out = net.apply(fast, query["x"], train=False)[0]
            terms, aux = judge(*fast, query, key, 0)
            values = {name: term.value for name, term in terms.items()}
            values["plain"] = total(plain(*fast, query, key, 0)[0])
            return fast.params["head"], out.output, out.read, values, aux.metrics["accuracy"].value

        head, logits, q, *_ = run({**query, "mask": np.ones(9, bool)})
    return run, head, support, query, np.asarray(head["support"]), np.asarray(q), np.asarray(logits)


def psi(x, head):
    """Row by row, from the formula."""
    w = {name: np.asarray(head[name]["kernel"]) for name in ("query", "key", "value", "projection")}
    out = []
    for row in x:
        e = np.array([np.exp(row @ w["query"] @ (other @ w["key"]) / x.shape[1] ** 0.5) for other in x])
        attended = sum(a * (other @ w["value"]) for a, other in zip(e / e.sum(), x, strict=True))
        h = row + attended @ w["projection"] + np.asarray(head["projection"]["bias"])
        h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
        out.append(h * np.asarray(head["norm"]["scale"]) + np.asarray(head["norm"]["bias"]))
    return np.stack(out)


def test_logits_are_distances_to_means_that_attend_to_each_other(case):
    _, head, support, _, z, q, logits = case
    c = np.stack([z[support["y"] == k].mean(0) for k in range(WAY)])
    expected = -((q[:, None] - psi(c, head)) ** 2).sum(-1) / 2
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


@pytest.mark.parametrize("left_out", [0, 1])
def test_the_regulariser_is_over_both_sets_of_each_class(case, left_out):
    """In value; a masked query, NaN or not, is as if absent, and so is one of weight 0."""
    run, head, support, query, z, q, _ = case
    kept = np.arange(9) < 9 - left_out
    rows, y = np.concatenate([z, q[kept]]), np.concatenate([support["y"], query["y"][kept]])
    m = np.stack([psi(rows[y == k], head).mean(0) for k in range(WAY)])
    logits = -((rows[:, None] - m) ** 2).sum(-1) / 3
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y])
    with jax.enable_x64(True):
        masked = run({**query, "x": np.where(kept[:, None], query["x"], np.nan), "mask": kept})[3]
        light = run({**query, "mask": np.ones(9, bool), "weights": kept.astype(float)})[3]
    for found in (masked, light):
        assert float(found["set_contrast"]) == pytest.approx(0.3 * expected, rel=1e-6)
        assert float(found["supervised"]) == pytest.approx(float(found["plain"]), rel=1e-12)


def test_episodes_train_the_attention(key):
    """Every parameter gets a finite gradient, dropout draws by the key, and an empty query set adds nothing."""
    net = network(backbone=dense(6), head=feat(temperature=2.0))
    rows = few_shot(tasks=2)
    for half in rows.values():
        half["y"] = np.tile(np.arange(half["y"].shape[1], dtype=np.int32) % WAY, (2, 1))
    objective = meta(memorise(net, way=WAY), set_contrast(net))
    params, stats = objective.init(key, rows)
    assert set(params["head"]) == {"query", "key", "value", "projection", "norm"}

    @jax.jit
    def run(rows, key):
        return jax.value_and_grad(lambda p: total(objective(p, stats, rows, key, 0)[0]))(params)

    rows["query"]["mask"] = np.ones((2, 9), bool)
    loss, grads = run(rows, key)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert run(rows, jax.random.key(7))[0] != loss
    rows["query"]["mask"][:] = False
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(run(rows, key)))


def test_weights_of_the_attention_are_dropped_at_their_own_rate(key):
    """A row alone has one weight; without it the row is only normalised."""
    module, row, seen = SetToSet(dropout=0.0, attention_dropout=0.1), jnp.arange(4.0)[None], jnp.ones((1, 1), bool)
    variables = module.init(key, row, seen, train=False)

    @jax.jit
    @jax.vmap
    def run(key):
        return module.apply(variables, row, seen, train=True, rngs={"dropout": key})

    alone = np.asarray((row - row.mean()) / row.std())
    dropped = np.abs(np.asarray(run(jax.random.split(key, 1000))) - alone).max((1, 2)) < 1e-4
    assert 0.06 < dropped.mean() < 0.14


def test_bad_numbers_are_refused():
    net = network(backbone=dense(6), head=feat())
    for make in (feat, partial(set_contrast, net)):
        with pytest.raises(ValueError, match="temperature=0"):
            make(temperature=0.0)
        for name in ("dropout", "attention_dropout"):
            with pytest.raises(ValueError, match=f"{name}=1"):
                make(**{name: 1.0})
    with pytest.raises(ValueError, match=r"weight=-1"):
        set_contrast(net, weight=-1.0)
    with pytest.raises(ValueError, match=r"the head 'head' holds \['support'\]: this judge is for feat"):
        set_contrast(net)({"head": {"support": 0}}, {}, {}, None, 0)

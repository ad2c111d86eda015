"""Labels with a weight each, labels that are trees, and several terms: all as one mean over what counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import largest_difference

from jtl import heads, losses
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.metrics.accumulate import total
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.reads import whole
from jtl.train.step import make_step

TOKENS = Model(
    lambda key, x: Variables({}, {}), lambda v, x, *, train, key=None: ({"last": x, "pooled": x.mean(1)}, v.stats)
)


def rows(seed=0, n=8, tokens=5):
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, (n, tokens)).astype(np.int32)
    y[draw.random((n, tokens)) < 0.4] = -100
    return {"x": draw.normal(size=(n, tokens, 4)).astype(np.float32), "y": y, "mask": draw.random(n) < 0.8}


def net():
    return network(backbone=TOKENS, head=heads.linear(3, reads=whole("last")))


def test_ignored_labels_count_neither_in_the_loss_nor_in_a_metric(key):
    batch, model = rows(), net()
    variables = model.init(key, batch["x"])
    value, aux = evaluation(model, ignore=-100)(variables.params, {}, batch, None, 0)
    logits = model.apply(variables, batch["x"], train=False)[0].output
    keep = (batch["y"] != -100) & batch["mask"][:, None]
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, np.maximum(batch["y"], 0))
    np.testing.assert_allclose(total(value), np.asarray(ce)[keep].mean(), rtol=1e-6)
    right = (np.asarray(logits).argmax(-1) == batch["y"])[keep].mean()
    np.testing.assert_allclose(aux.metrics["accuracy"].value, right, rtol=1e-6)


def test_weights_of_elements_are_those_of_torch(key):
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    batch, model = rows(), net()
    weights = np.random.default_rng(1).random(batch["y"].shape).astype(np.float32)
    variables = model.init(key, batch["x"])
    value, _ = evaluation(model, ignore=-100)(variables.params, {}, {**batch, "weights": weights}, None, 0)
    logits = torch.tensor(np.asarray(model.apply(variables, batch["x"], train=False)[0].output)).permute(0, 2, 1)
    labels = torch.tensor(batch["y"]).long()
    each = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
    w = torch.tensor(weights * (batch["y"] != -100) * batch["mask"][:, None])
    np.testing.assert_allclose(total(value), float((each * w).sum() / w.sum()), rtol=1e-5)


def test_the_gradient_of_what_does_not_count_is_zero_and_finite(key):
    batch, model = rows(), net()
    variables = model.init(key, batch["x"])

    def loss(x):
        return total(finetune(model, ignore=-100)(variables.params, {}, {**batch, "x": x}, key, 0)[0])

    grads = np.asarray(jax.grad(loss)(jnp.asarray(batch["x"])))
    keep = (batch["y"] != -100) & batch["mask"][:, None]
    assert np.isfinite(grads).all()
    assert not grads[~keep].any()
    assert grads[keep].any(-1).all()


@pytest.mark.parametrize("microbatch", [2, 4])
def test_microbatches_of_unlike_counts_are_the_batch(key, microbatch):
    batch, model = rows(), net()
    variables, found = model.init(key, batch["x"]), []
    for parts in (1, microbatch):
        step = make_step(finetune(model, ignore=-100), optax.sgd(0.5), microbatch=parts)
        state, metrics = jax.jit(step)(step.init(variables, key), batch)
        found.append((state.params, metrics))
    assert largest_difference(*found) < 1e-6


def test_labels_may_be_trees_and_losses_several_terms(key):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(6, 4)).astype(np.float32)
    y = {"kind": draw.integers(0, 3, 6).astype(np.int32), "size": draw.normal(size=(6, 2)).astype(np.float32)}
    backbone = Model(lambda key, x: Variables({}, {}), lambda v, x, *, train, key=None: ({"pooled": x}, v.stats))
    model = network(backbone=backbone, kind=heads.linear(3), size=heads.linear(2))
    weights = {"size": (draw.random((6,)) < 0.5).astype(np.float32)}

    def loss(output, y):
        return {"kind": losses.cross_entropy(output["kind"], y["kind"]), "size": losses.mse(output["size"], y["size"])}

    metrics = {"accuracy": lambda output, y: (output["kind"].argmax(-1) == y["kind"]) * 1.0}
    objective = finetune(model, loss, metrics=metrics)
    variables = objective.init(key, {"x": x})
    value, aux = objective(variables.params, {}, {"x": x, "y": y, "weights": weights}, key, 0)
    out = model.apply(variables, x, train=False)[0].output
    ce = optax.softmax_cross_entropy_with_integer_labels(out["kind"], y["kind"]).mean()
    square = ((np.asarray(out["size"]) - y["size"]) ** 2).mean(1)[weights["size"] > 0].mean()
    np.testing.assert_allclose(value["kind"].value, ce, rtol=1e-6)
    np.testing.assert_allclose(value["size"].value, square, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["accuracy"].value, (out["kind"].argmax(-1) == y["kind"]).mean())

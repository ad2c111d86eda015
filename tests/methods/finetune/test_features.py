import jax
import numpy as np
import optax
import pytest
from nets import batch, normed, top

from jtl import backbones, heads, losses, model
from jtl.heads import reading
from jtl.methods.adapt.views import look
from jtl.methods.finetune.features import extract, features
from jtl.methods.finetune.finetune import finetune
from jtl.metrics.accumulate import total
from jtl.networks import network, part
from jtl.params import flatten, select
from jtl.reads import reads
from jtl.train.step import make_step


def test_no_gradient_reaches_the_backbone(key):
    rows = batch()
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["x"])
    objective = features(net)
    grads = jax.jit(jax.grad(lambda p: total(objective(p, variables.stats, rows, key, 0)[0])))(variables.params)
    for path, g in flatten(grads).items():
        assert bool((np.asarray(g) != 0).any()) == path.startswith("head/"), path


def test_training_on_extracted_features_is_training_through_the_frozen_backbone(key):
    rows = batch(n=20)
    net = network(backbone=normed(8), head=top(3))
    variables = net.init(key, rows["x"])
    step = make_step(features(net), optax.adam(1e-2), trainable=select("head/.*"))
    state = step.init(variables, key)
    run = jax.jit(step)
    for _ in range(5):
        state, _ = run(state, rows)

    cut = [{n: v[i : i + 8] for n, v in rows.items()} for i in (0, 8)]
    cut.append(
        {"x": np.pad(rows["x"][16:], ((0, 4), (0, 0))), "y": np.pad(rows["y"][16:], (0, 4)), "mask": np.arange(8) < 4}
    )
    cut[2]["mask"] = cut[2]["mask"].astype(np.int32)  # a mask may hold weights
    x, y = extract(net.parts["backbone"], part(variables, "backbone"), cut)
    np.testing.assert_array_equal(y, rows["y"])
    params, tx = variables.params["head"], optax.adam(1e-2)
    opt = tx.init(params)

    def loss(p):
        return optax.softmax_cross_entropy_with_integer_labels(
            x @ p["out"]["kernel"] + p["out"]["bias"][None], y
        ).mean()

    slope = jax.jit(jax.grad(loss))
    for _ in range(5):
        updates, opt = tx.update(slope(params), opt, params)
        params = optax.apply_updates(params, updates)
    for a, b in zip(jax.tree.leaves(state.params["head"]), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)  # 2e-4 of an update of 1e-2: float32 sums in another order


def test_several_stages_are_fused(key):
    rows, both = batch(), reads(("pooled", "last"))
    body = normed(8)
    net = network(backbone=body, head=reading(top(3), both))
    variables = net.init(key, rows["x"])
    value, _ = features(net)(variables.params, variables.stats, rows, key, 0)
    x, y = extract(body, part(variables, "backbone"), [rows], both)
    assert x.shape == (24, 16)
    out = variables.params["head"]["out"]
    logits = x @ out["kernel"] + out["bias"][None]
    np.testing.assert_allclose(
        total(value), optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), rtol=1e-6
    )


def test_unlabelled_data_give_features_without_labels(key):
    rows, body = batch(), normed(8)
    variables = body.init(key, rows["x"])
    x, y = extract(body, variables, [{"x": rows["x"]}])
    assert y is None
    np.testing.assert_allclose(x, body.apply(variables, rows["x"], train=False)[0]["pooled"], atol=1e-6)


def words(variables, x, *, train, key=None):
    """A backbone that tells each token's word."""
    del train, key
    told = jax.nn.one_hot(x["ids"], 4) * variables.params["scale"]
    return {"last": told, "pooled": told[:, 0]}, variables.stats


def test_features_of_texts_are_means_of_their_tokens_and_padding_changes_none(key):
    chosen = reads(("last", "pooled"))
    body = model.Model(lambda key, x: model.Variables({"scale": np.float32(1)}, {}), words)
    net = network(backbone=body, head=reading(top(3), chosen))
    mask = np.arange(4) < np.array([[4], [2]])
    x = {"ids": np.array([[0, 3, 3, 2], [1, 2, 0, 0]], np.int32), "mask": mask}
    padded = jax.tree.map(lambda a: np.pad(a, ((0, 0), (0, 3))), x)
    wanted = np.array([[0.25, 0, 0.25, 0.5, 1, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 1, 0, 0]], np.float32)
    variables, y = net.init(key, x), np.arange(2)
    for given in (x, padded):
        found, _ = extract(body, part(variables, "backbone"), [{"x": given, "y": y}], chosen)
        np.testing.assert_array_equal(found, wanted)
    rows = {"source": {"x": padded, "y": y}, "target": {"x": padded}}
    views, _ = look(net, variables.params, {}, rows, key)
    logits = wanted @ variables.params["head"]["out"]["kernel"] + variables.params["head"]["out"]["bias"][None]
    np.testing.assert_allclose(views["target"].output, logits, rtol=1e-5, atol=1e-6)


def frozen(net, loss=losses.cross_entropy):
    return finetune(net, loss, frozen_stats=True)


@pytest.mark.parametrize("method", [features, frozen])
def test_a_frozen_backbone_still_sees_its_input_preprocessed(key, method):
    """A regression by `W f + b` of features that are the preprocessed input itself, by hand."""
    rows = batch()
    net = network(backbone=backbones.identity(), head=top(3))
    inside = model.preprocessed(net, lambda key, x: 100 * x - 7)
    variables = inside.init(key, rows["x"])
    value, _ = method(inside, lambda out, y: out[:, 0])(variables.params, variables.stats, rows, key, 0)
    out = variables.params["head"]["out"]
    by_hand = (100 * rows["x"] - 7) @ out["kernel"][:, 0] + out["bias"][0]
    np.testing.assert_allclose(total(value), by_hand.mean(), rtol=1e-5)


def test_a_network_in_evaluation_mode_keeps_to_it_on_a_frozen_backbone(key):
    rows = batch()
    net = network(backbone=backbones.identity(), head=heads.linear(3, dropout=0.5))
    variables = net.init(key, rows["x"])
    value, _ = features(model.evaluated(net))(variables.params, {}, rows, key, 0)
    out = variables.params["head"]["out"]
    logits = rows["x"] @ out["kernel"] + out["bias"][None]
    wanted = optax.softmax_cross_entropy_with_integer_labels(logits, rows["y"]).mean()
    np.testing.assert_allclose(total(value), wanted, rtol=1e-6)


def test_an_empty_data_set_is_refused(key):
    with pytest.raises(ValueError, match="no batch to extract features from"):
        extract(normed(8), normed(8).init(key, np.ones((2, 5), np.float32)), [])

import jax
import numpy as np
import pytest
from nets import batch, dense

from jtl import heads
from jtl.methods.finetune.sentence_pairs import class_pairs, sentence_pairs, similar_pairs
from jtl.metrics.accumulate import total
from jtl.networks import network


@pytest.fixture(scope="module")
def setup():
    one, two = batch(8, masked=True), batch(8, seed=1)
    body = dense(6)
    return (
        one,
        two,
        body,
        sentence_pairs(body).init(jax.random.key(0), {"x": {"anchor": one["x"], "positive": two["x"]}}),
    )


def _embeddings(setup):
    one, two, body, start = setup
    own = start._replace(params=start.params["backbone"])
    e = [np.asarray(body.apply(own, x["x"], train=False)[0]["pooled"])[one["mask"]] for x in (one, two)]
    return [a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-9) for a in e]


def test_the_loss_of_pairs_is_torchs_cross_entropy_of_the_pairs_kept(setup):
    torch = pytest.importorskip("torch")
    one, two, body, start = setup
    rows = {"x": {"anchor": one["x"], "positive": two["x"]}, "mask": one["mask"]}
    loss, aux = sentence_pairs(body, scale=5.0)(start.params, start.stats, rows, None, 0)
    a, b = _embeddings(setup)
    scores = torch.tensor(5 * a @ b.T)
    np.testing.assert_allclose(loss.value, torch.nn.functional.cross_entropy(scores, torch.arange(len(a))), rtol=1e-5)
    right = ((a @ b.T).argmax(1) == np.arange(len(a))).mean()
    np.testing.assert_allclose(aux.metrics["accuracy"].value, right, rtol=1e-6)


def test_the_loss_of_setfit_is_that_of_the_cosines_of_the_pairs_kept(setup):
    one, two, body, start = setup
    y = np.arange(8) % 2
    rows = {"x": {"first": one["x"], "second": two["x"]}, "y": y, "mask": one["mask"]}
    loss = similar_pairs(body)(start.params, start.stats, rows, None, 0)[0]
    a, b = _embeddings(setup)
    np.testing.assert_allclose(loss.value, (((a * b).sum(1) - y[one["mask"]]) ** 2).mean(), rtol=1e-5)
    broken = np.where(one["mask"][:, None], one["x"], np.nan)

    def value(p):
        return total(similar_pairs(body)(p, {}, {**rows, "x": {"first": broken, "second": two["x"]}}, None, 0)[0])

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(value)(start.params)))


@pytest.mark.parametrize("objective", [sentence_pairs, similar_pairs])
def test_a_loaded_network_is_trained_as_its_backbone_alone(setup, objective):
    one, two, body, _ = setup
    net = network(backbone=body, head=heads.linear(3))
    names = ("anchor", "positive") if objective is sentence_pairs else ("first", "second")
    rows = {"x": dict(zip(names, (one["x"], two["x"]), strict=True)), "y": np.arange(8) % 2}
    given = net.init(jax.random.key(1), one["x"])
    own = objective(net).init(jax.random.key(2), rows, given)
    jax.tree.map(np.testing.assert_array_equal, own.params["backbone"], given.params["backbone"])
    values = [total(objective(model)(own.params, own.stats, rows, None, 0)[0]) for model in (net, body)]
    assert values[0] == values[1]


def test_pairs_of_classes():
    y = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
    pairs = class_pairs(y, 5, seed=3)
    assert len(pairs.first) == 2 * 5 * 10
    np.testing.assert_array_equal(pairs.same, y[pairs.first] == y[pairs.second])
    assert (pairs.first != pairs.second).all()
    assert (np.bincount(pairs.first) == 10).all()
    assert pairs.same.mean() == 0.5
    for a, b in zip(pairs, class_pairs(y, 5, seed=3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_input_raises(setup):
    one, _, body, start = setup
    with pytest.raises(ValueError, match="two each"):
        class_pairs(np.array([0, 0, 1]), 1)
    with pytest.raises(ValueError, match=r"must hold \['anchor', 'positive'\]"):
        sentence_pairs(body)(start.params, start.stats, {"x": {"anchor": one["x"]}}, None, 0)
    rows = {"x": {"anchor": one["x"], "positive": one["x"]}}
    with pytest.raises(ValueError, match="must be an embedding"):
        sentence_pairs(body, feature="map")(start.params, start.stats, rows, None, 0)

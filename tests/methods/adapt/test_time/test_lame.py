"""LAME against its steps row by row with affinities of scikit-learn, what no step raises, and what masks do."""

import jax
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from nets import dense, top

from jtl import heads
from jtl.methods.adapt.test_time.lame import lame, laplacian_adjusted
from jtl.model import Model, Variables
from jtl.networks import network

DRAW = np.random.default_rng(0)
LOGITS = (2 * DRAW.normal(size=(24, 4))).astype(np.float32)
FEATURES = (DRAW.normal(size=(24, 6)) + 2 * np.eye(6)[DRAW.integers(0, 4, 24)]).astype(np.float32)
ADJUSTED = jax.jit(laplacian_adjusted, static_argnames=("affinity", "neighbours", "steps"))
KINDS = ("knn", "rbf", "linear")


def affinities(kind, k):
    """Of scikit-learn; σ from its sorted distances, of which the first is the row's own."""
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    from sklearn.neighbors import kneighbors_graph

    f = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    if kind == "knn":
        return kneighbors_graph(f, k).toarray()
    if kind == "linear":
        return pairwise.linear_kernel(f)
    sigma = np.sort(pairwise.euclidean_distances(f), axis=1)[:, k].mean()
    return pairwise.rbf_kernel(f, gamma=1 / (2 * sigma**2))


def softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def stepped(q, w, steps):
    """Row by row, all from the predictions of the step before."""
    z = q
    for _ in range(steps):
        z = np.stack([softmax(np.log(q[i]) + sum(w[i, j] * z[j] for j in range(len(q)))) for i in range(len(q))])
    return z


def objective(z, q, w):
    return (z * np.log(z / q)).sum() - 0.5 * (w * (z @ z.T)).sum()


Q = np.stack([softmax(row) for row in LOGITS.astype(np.float64)])


@pytest.mark.parametrize(("kind", "k"), [("knn", 1), ("knn", 3), ("rbf", 3), ("linear", 3)])
def test_steps_are_those_of_the_formula_and_lower_the_objective(kind, k):
    w = affinities(kind, k)
    one, found = (
        np.exp(np.float64(ADJUSTED(LOGITS, FEATURES, affinity=kind, neighbours=k, steps=n))) for n in (1, 100)
    )
    np.testing.assert_allclose(one, stepped(Q, w, 1), atol=1e-5)
    np.testing.assert_allclose(found, stepped(Q, w, 100), atol=1e-4)
    np.testing.assert_allclose(found, [softmax(row) for row in np.log(Q) + w @ found], atol=1e-4)  # a fixed point
    assert np.abs(found - Q).max() > 0.1
    if kind != "knn":  # which is no kernel
        values = [objective(z, Q, w) for z in (Q, one, found)]
        assert values[2] < values[1] - 0.01 < values[0] - 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_order_masks_and_batches_of_one_row(kind):
    plain = np.asarray(ADJUSTED(LOGITS, FEATURES, affinity=kind, neighbours=3))
    order = DRAW.permutation(24)
    turned = ADJUSTED(LOGITS[order], FEATURES[order], affinity=kind, neighbours=3)
    np.testing.assert_allclose(turned, plain[order], atol=1e-4)
    bad = np.full((3, 1), np.nan, np.float32)
    given = [np.concatenate([a, np.tile(bad, a.shape[1])]) for a in (LOGITS, FEATURES)]
    found = np.asarray(ADJUSTED(*given, np.arange(27) < 24, affinity=kind, neighbours=3))
    np.testing.assert_allclose(found[:24], plain, atol=1e-4)
    assert np.isfinite(found).all()
    few = np.arange(27) < 2  # fewer than there are neighbours: one other row for each
    found = np.asarray(ADJUSTED(*given, few, affinity=kind, neighbours=3))
    two = ADJUSTED(LOGITS[:2], FEATURES[:2], affinity=kind, neighbours=3)
    np.testing.assert_allclose(found[:2], two, atol=1e-4)
    assert np.isfinite(ADJUSTED(*given, np.zeros(27, bool), affinity=kind, neighbours=3)).all()
    alone = np.exp(ADJUSTED(LOGITS[:1], FEATURES[:1], affinity=kind, neighbours=3))[0]
    own = Q[0] if kind == "knn" else stepped(Q[:1], np.ones((1, 1)), 60)[0]
    np.testing.assert_allclose(alone, own, atol=2e-5)


def test_equal_rows_are_each_the_others_neighbours():
    """The nearest other row, also where rounding makes one that is equal nearer than the row itself; σ is not 0."""
    same = np.tile(FEATURES[:1], (4, 1))
    for kind in ("knn", "rbf"):
        found = np.exp(ADJUSTED(LOGITS[:4], same, affinity=kind, neighbours=3))
        w = np.ones((4, 4)) - (np.eye(4) if kind == "knn" else 0)
        np.testing.assert_allclose(found, stepped(Q[:4], w, 100), atol=1e-4)


def test_a_network_predicts_from_what_its_head_reads():
    net, x = network(backbone=dense(6), head=top(3)), DRAW.normal(size=(9, 5)).astype(np.float32)
    variables = net.init(jax.random.key(0), x)
    predict = jax.jit(lame(net, neighbours=2))
    out = net.apply(variables, x, train=False)[0]
    expected = ADJUSTED(out.output, out.features["pooled"], neighbours=2)
    np.testing.assert_allclose(predict(variables, {"x": x}), expected, atol=1e-5)
    masked = {"x": np.concatenate([x, x[:1] * np.nan]), "mask": np.arange(10) < 9}
    np.testing.assert_allclose(predict(variables, masked)[:9], expected, atol=1e-5)


def test_what_does_not_fit_is_refused():
    net = network(backbone=dense(6), head=top(3))
    with pytest.raises(ValueError, match="neighbours=0"):
        lame(net, neighbours=0)
    with pytest.raises(ValueError, match="steps=0"):
        laplacian_adjusted(LOGITS, FEATURES, steps=0)
    told = r"Type-check error|logits \(24, 4\) and features \(5, 6\): give one row"
    with pytest.raises((ValueError, TypeCheckError), match=told):
        laplacian_adjusted(LOGITS, FEATURES[:5])
    with pytest.raises(ValueError, match=r"affinity='cosine': one of \['knn', 'rbf', 'linear'\]"):
        lame(net, affinity="cosine")
    tokens = Model(lambda key, x: Variables({}, {}), lambda variables, x, **_: ({"last": x[:, None]}, {}))
    tagger, x = network(backbone=tokens, head=heads.per_position(3)), np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match=r"reads \(2, 1, 5\) and gives \(2, 1, 3\)"):
        lame(tagger)(tagger.init(jax.random.key(0), x), {"x": x})

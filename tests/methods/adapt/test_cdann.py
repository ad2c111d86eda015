"""CDANN against DomainBed's loss row by row, with gradients of a linear critic by hand; masks, classes, devices."""

import jax
import numpy as np
import optax
import pytest
from nets import batch, dense, top

from jtl import alignments, heads
from jtl.methods.views import View
from jtl.metrics.accumulate import total
from jtl.model import Variables
from jtl.networks import network
from jtl.params import flatten
from jtl.reads import whole
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch
from jtl.train.step import make_step

KEY = jax.random.key(0)
NAMES = ("a", "b", "c")
SIZES = {"a": 6, "b": 8, "c": 10}
TERM = alignments.cdann(NAMES, top(3), lambda step: 0.5 * step)


def views():
    """Features of three domains, four classes of which one does not occur; some rows count, and some of these twice."""
    draw = np.random.default_rng(0)
    return {
        name: View({"pooled": draw.normal(size=(n, 5)).astype(np.float32)}, np.zeros((n, 4)), np.zeros((n, 1)),
                   draw.choice([0, 1, 3], n), np.arange(n) % 5 != i, {"weights": draw.integers(1, 3, n)})
        for i, (name, n) in enumerate(SIZES.items())
    }  # fmt: skip


def by_hand(params, views, strength):
    """Value, and gradients of the features, the embedding, and the critic's kernel and bias; one row after another."""
    e = np.asarray(params["classes"]["embedding"], np.float64)
    kernel, bias = (np.asarray(params["domains"]["out"][n], np.float64) for n in ("kernel", "bias"))
    rows = [
        (n, i, d, int(view.y[i]), int(view.rows["weights"][i]))
        for d, (n, view) in enumerate(views.items()) for i in np.flatnonzero(view.mask)
    ]  # fmt: skip
    counts = np.bincount([y for *_, y, w in rows for _ in range(w)])
    present, value = (counts > 0).sum(), 0.0
    slopes = {n: np.zeros(view.features["pooled"].shape) for n, view in views.items()}
    moves, to_kernel, to_bias = np.zeros_like(e), np.zeros_like(kernel), np.zeros_like(bias)
    for n, i, d, y, w in rows:
        f = np.asarray(views[n].features["pooled"])[i] + e[y]
        z = f @ kernel + bias
        p = np.exp(z) / np.exp(z).sum()
        share = w / (counts[y] * present)
        value -= share * np.log(p[d])
        g = share * (p - np.eye(3)[d])
        slopes[n][i] -= strength * kernel @ g
        moves[y] += kernel @ g
        to_kernel += np.outer(f, g)
        to_bias += g
    return value, slopes, {"classes": {"embedding": moves}, "domains": {"out": {"kernel": to_kernel, "bias": to_bias}}}


def loss(params, features, looked, step=4):
    seen = {n: v._replace(features={"pooled": features[n]}) for n, v in looked.items()}
    terms, aux = TERM.loss(params, {}, seen, KEY, step)
    return total(terms), aux.metrics


run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def features_of(looked):
    return {n: v.features["pooled"] for n, v in looked.items()}


def test_value_and_gradients_are_those_of_each_row():
    looked = views()
    params = TERM.init(KEY, looked).params
    assert {path: leaf.shape for path, leaf in flatten(params).items()} == {
        "critic/classes/embedding": (4, 5), "critic/domains/out/kernel": (5, 3), "critic/domains/out/bias": (3,)
    }  # fmt: skip
    (value, metrics), (slopes, moves) = run(params, features_of(looked), looked)
    wanted = by_hand(params["critic"], looked, 2.0)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves((slopes["critic"], moves)), jax.tree.leaves(wanted[:0:-1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert max(np.abs(leaf).max() for leaf in moves.values()) > 1e-2
    assert float(metrics["critic_weight"]) == 2
    assert 0 < float(metrics["critic_accuracy"].value) < 1


def test_masked_rows_reach_nothing_and_domains_may_be_empty():
    looked = views()
    params = TERM.init(KEY, looked).params
    kept = {n: (v.mask & (v.rows["weights"] > 1)) for n, v in looked.items()}
    masked = {n: v._replace(mask=kept[n], y=np.where(kept[n], v.y, -100)) for n, v in looked.items()}
    bad = {n: np.where(kept[n][:, None], f, np.float32(np.nan)) for n, f in features_of(looked).items()}
    found, clean = run(params, bad, masked), run(params, features_of(looked), masked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, clean)
    none = {n: np.zeros(size, bool) for n, size in SIZES.items()}
    one = {n: v._replace(mask=none[n] if n == "c" else v.mask) for n, v in masked.items()}
    (value, _), _ = run(params, bad, one)
    np.testing.assert_allclose(value, by_hand(params["critic"], one, 2.0)[0], rtol=1e-5)
    (value, _), slopes = run(params, bad, {n: v._replace(mask=none[n]) for n, v in masked.items()})
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes))


def test_rows_of_a_class_twice_change_nothing_and_a_label_that_is_no_class_gives_nan():
    """The law of balanced classes: it is a mean over classes of means over rows."""
    looked = views()
    params = TERM.init(KEY, looked).params
    plain, _ = run(params, features_of(looked), looked)
    of = {n: {"weights": v.rows["weights"] * np.where(v.y == 3, 2, 1)} for n, v in looked.items()}
    twice = {n: v._replace(rows=of[n]) for n, v in looked.items()}
    np.testing.assert_allclose(run(params, features_of(looked), twice)[0][0], plain[0], atol=1e-6)
    for label in (4, -1):
        wrong = looked | {"b": looked["b"]._replace(y=np.array([label, *looked["b"].y[1:]]))}
        assert np.isnan(run(params, features_of(looked), wrong)[0][0])


def test_eight_devices_step_as_one_and_parts_balance_their_own_classes():
    net = network(backbone=dense(6), head=top(3))
    rows = {n: batch(n=16, seed=i, masked=True) for i, n in enumerate(NAMES)}
    objective = alignments.adapt(net, alignments=[alignments.cdann(NAMES, top(3))], labelled=NAMES[:1], metrics={})
    step = make_step(objective, optax.sgd(0.5), microbatch=2)
    start = step.init(objective.init(KEY, rows), KEY)
    assert flatten(start.params)["critic/classes/embedding"].shape == (3, 6)
    one, metrics = jax.jit(step)(start, rows)
    eight, many = jax.device_get(pmap_step(step)(replicated(start), split_batch(rows)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-6), eight.params, one.params)
    for name in ("critic", "critic_accuracy", "loss"):
        np.testing.assert_allclose(np.ravel(many[name])[0], metrics[name], rtol=1e-5)
    halves = [{n: {k: a[i::2] for k, a in part.items()} for n, part in rows.items()} for i in (0, 1)]
    present = [len({y for part in half.values() for y in part["y"][part["mask"]].tolist()}) for half in halves]
    assert present == [3, 2]
    alone = []
    for half in halves:
        features = {
            n: net.apply(Variables(start.params, {}), part["x"], train=False)[0].features for n, part in half.items()
        }
        weights = {"weights": np.ones(8, int)}
        looked = {n: View(features[n], None, None, part["y"], part["mask"], weights) for n, part in half.items()}
        alone.append(by_hand(start.params["critic"], looked, 1.0)[0])
    np.testing.assert_allclose(metrics["critic"], np.average(alone, weights=present), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    looked = views()
    for domains in ("ab", ("a",), ("a", "a")):
        with pytest.raises(ValueError, match="domains="):
            alignments.cdann(domains)
    made = jax.eval_shape(lambda: alignments.cdann(NAMES).init(KEY, looked).params)
    shapes = {path: leaf.shape for path, leaf in flatten(made).items()}
    assert shapes["critic/domains/hidden1/kernel"] == (5, 256)
    assert shapes["critic/domains/out/kernel"] == (256, 3)
    two = alignments.cdann(NAMES[:2], top(3))
    with pytest.raises(ValueError, match=r"the critic returns \(14, 3\) for 14 rows; it must give 2 logits each"):
        jax.eval_shape(lambda looked: two.loss(two.init(KEY, looked).params, {}, looked, KEY, 0)[0], looked)
    maps = looked | {"a": looked["a"]._replace(features={"pooled": np.zeros((6, 2, 2, 5))})}
    with pytest.raises(ValueError, match=r"reads features of shape \(6, 2, 2, 5\); give \[batch, width\]"):
        alignments.cdann(NAMES, heads.reading(top(3), whole("pooled"))).init(KEY, maps)
    with pytest.raises(ValueError, match=r"critic: outputs of shape \(6,\)"):
        TERM.init(KEY, looked | {"a": looked["a"]._replace(output=np.zeros(6))})

"""RSC against DomainBed's masks in NumPy, for a head with a hidden layer; masked rows, parts of a batch, devices."""

import jax
import numpy as np
import optax
import pytest
from nets import batch, dense, top

from jtl import alignments, heads, losses
from jtl.methods.adapt.rsc import quantile
from jtl.metrics.accumulate import total
from jtl.networks import network
from jtl.reads import whole
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch
from jtl.train.step import make_step

KEY = jax.random.key(0)
NAMES = ("a", "b", "c")
NET = network(backbone=dense(8), head=heads.mlp(3, (6,)))
ROWS = {n: batch(n=16, seed=i, masked=True) | {"weights": np.arange(16) % 3 + 0.5} for i, n in enumerate(NAMES)}
VARIABLES = NET.init(KEY, ROWS["a"]["x"])
VARIABLES.params["backbone"]["layer0"]["bias"] += 2.0  # few entries are 0, because muting these changes nothing
SHARES = (0.4, 0.25)
OBJECTIVE = alignments.rsc(NET, NAMES, feature_share=SHARES[0], batch_share=SHARES[1])


def rows_that_count(rows):
    """Inputs, labels and weights of the rows that count, of all domains."""
    kept = {n: part["mask"] for n, part in rows.items()}
    return (np.concatenate([part[field][kept[n]] for n, part in rows.items()]) for field in ("x", "y", "weights"))


def by_hand(params, rows):
    """The loss, and the mask of each row, 1 where an entry is left; of these rows alone."""
    x, y, w = rows_that_count(rows)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    first, hidden, out = p["backbone"]["layer0"], p["head"]["hidden1"], p["head"]["out"]
    f, mine = np.maximum(x @ first["kernel"] + first["bias"], 0), np.arange(len(y))

    def logits(f):
        h = f @ hidden["kernel"] + hidden["bias"]
        return np.maximum(h, 0) @ out["kernel"] + out["bias"], h > 0

    def softmax(z):
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    z, on = logits(f)
    # In float32, as in DomainBed: 0.6666666666666667 of 21 is above 14 in float64.
    g = ((on * out["kernel"][:, y].T) @ hidden["kernel"].T).astype(np.float32)
    left = g < np.percentile(g, (1 - SHARES[0]) * 100, axis=1)[:, None]
    lost = (softmax(z)[mine, y] - softmax(logits(f * left)[0])[mine, y]).astype(np.float32)
    left = left | (lost < np.percentile(lost, (1 - SHARES[1]) * 100))[:, None]
    values = -np.log(softmax(logits(f * left)[0])[mine, y])
    return np.average(values, weights=w), left


def loss(params, rows):
    terms, aux = OBJECTIVE(params, {}, rows, KEY, 0)
    return total(terms), aux.metrics


run = jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_value_and_gradient_are_those_of_numpys_masks():
    (value, metrics), slopes = run(VARIABLES.params, ROWS)
    wanted, left = by_hand(VARIABLES.params, ROWS)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert sorted((~left).sum(1)) == [0] * 24 + [3] * 9  # of these nine, one is the quantile itself
    x, y, w = rows_that_count(ROWS)

    def plain(params):
        first, hidden, out = params["backbone"]["layer0"], params["head"]["hidden1"], params["head"]["out"]
        f = jax.nn.relu(x @ first["kernel"] + first["bias"][None]) * left
        z = jax.nn.relu(f @ hidden["kernel"] + hidden["bias"][None]) @ out["kernel"] + out["bias"][None]
        return (w * losses.cross_entropy(z, y)).sum() / w.sum()

    wanted = jax.jit(jax.grad(plain))(VARIABLES.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slopes, wanted)
    z = NET.apply(VARIABLES, ROWS["b"]["x"], train=False)[0].output  # of which nothing is muted
    right = np.average(z.argmax(1) == ROWS["b"]["y"], weights=ROWS["b"]["mask"] * ROWS["b"]["weights"])
    np.testing.assert_allclose(metrics["b/accuracy"].value, right, rtol=1e-5)


def test_masked_rows_reach_nothing_and_domains_may_be_empty():
    bad = {
        n: {
            **part,
            "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32),
            "y": np.where(part["mask"], part["y"], -100),
        }
        for n, part in ROWS.items()
    }
    found, clean = run(VARIABLES.params, bad), run(VARIABLES.params, ROWS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, clean)
    none = np.zeros(16, bool)
    (value, _), _ = run(VARIABLES.params, bad | {"c": {**bad["c"], "mask": none}})
    two = by_hand(VARIABLES.params, {n: ROWS[n] for n in NAMES[:2]})[0]
    np.testing.assert_allclose(value, two, rtol=1e-5)
    (value, _), slopes = run(VARIABLES.params, {n: {**part, "mask": none} for n, part in bad.items()})
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes))


def test_eight_devices_step_as_one_and_parts_have_quantiles_of_their_own():
    step = make_step(OBJECTIVE, optax.sgd(0.5), microbatch=2)
    start = step.init(VARIABLES, KEY)
    one, metrics = jax.jit(step)(start, ROWS)
    eight, many = jax.device_get(pmap_step(step)(replicated(start), split_batch(ROWS)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-6), eight.params, one.params)
    np.testing.assert_allclose(np.ravel(many["loss"])[0], metrics["loss"], rtol=1e-5)
    halves = [{n: {k: a[i::2] for k, a in part.items()} for n, part in ROWS.items()} for i in (0, 1)]
    sums = [tuple(rows_that_count(half))[2].sum() for half in halves]
    wanted = np.average([by_hand(VARIABLES.params, half)[0] for half in halves], weights=sums)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)
    assert abs(wanted - by_hand(VARIABLES.params, ROWS)[0]) > 1e-3


def test_the_quantile_is_numpys_and_a_value_is_not_rounded_beside_itself():
    draw = np.random.default_rng(0)

    def many(values, kept, share):
        return jax.jit(jax.vmap(lambda v, k: quantile(v, k, share)))(values, kept)

    values, kept = draw.normal(size=(200, 31)).astype(np.float32), draw.random((200, 31)) < 0.7
    for share in (0.0, 0.7, 1.0):
        found = many(values, kept, share)
        wanted = [np.quantile(v[k], share) for v, k in zip(values, kept, strict=True)]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    first = np.tile(np.arange(31) < 26, (200, 1))
    exact = many(values, first, 0.6)  # 25 times 0.6 is 15.000001 in float32
    np.testing.assert_array_equal(exact, np.sort(values[:, :26], 1)[:, 15])
    assert np.isinf(many(values, np.zeros_like(kept), 0.5)).all()


def test_what_does_not_fit_is_refused():
    for number in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"feature_share={number}: must be a number in \[0, 1\]"):
            alignments.rsc(NET, NAMES, feature_share=number)
        with pytest.raises(ValueError, match=f"batch_share={number}: must be"):
            alignments.rsc(NET, NAMES, batch_share=number)
    for domains in ("ab", (), ("a", "a")):
        with pytest.raises(ValueError, match="rsc: domains="):
            alignments.rsc(NET, domains)
    with pytest.raises(ValueError, match=r"the heads \['first', 'second'\]"):
        alignments.rsc(network(backbone=dense(8), first=top(3), second=top(3)), NAMES)
    maps = {"a": {"x": np.zeros((4, 2, 5), np.float32), "y": np.zeros(4, int)}}
    for head, rows, message in (
        (top(1), ROWS, r"the head gives \(16, 1\)"),
        (heads.reading(top(3), whole("pooled")), maps, r"features of shapes \(4, 2, 8\); give \[batch, width\]"),
    ):
        objective = alignments.rsc(network(backbone=dense(8), head=head), ("a",))
        variables = jax.eval_shape(lambda of=objective, rows=rows: of.init(KEY, rows))
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda v, of=objective, rows=rows: of(v.params, {}, rows, KEY, 0)[0], variables)

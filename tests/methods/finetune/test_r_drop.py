"""R-Drop against the paper's formula on the logits of its two passes, and what holds for any network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from nets import batch, dense, parts, top

from jtl import heads
from jtl.losses import mse
from jtl.methods.finetune.bss import bss
from jtl.methods.finetune.finetune import finetune
from jtl.methods.finetune.r_drop import r_drop
from jtl.metrics.accumulate import total
from jtl.model import Variables, from_linen
from jtl.networks import network
from jtl.reads import whole
from jtl.train.step import make_step

KEY = jax.random.key(3)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dropout(0.5)(nn.Dense(8)(x), deterministic=not train)
        return {"pooled": x, "last": x}


NET = network(backbone=from_linen(Dropped()), head=top(3))
ROWS = batch(n=8)
START = jax.tree.map(lambda w: 3 * w, NET.init(KEY, ROWS["x"]))


def passes(net, variables, x):
    z = net.apply(variables, jnp.repeat(x, 2, axis=0), train=True, key=KEY)[0].output
    return z[::2], z[1::2]


def terms_of(objective, rows, variables=START):
    return jax.jit(lambda params: objective(params, {}, rows, KEY, 0)[0])(variables.params)


def by_hand(net, params, rows, weights, alpha):
    """The mean of two cross-entropies and α times the mean of two divergences, over weighted elements."""

    def values(params):
        p, q = map(jax.nn.log_softmax, passes(net, Variables(params, {}), rows["x"]))
        nll = -((p + q) * jax.nn.one_hot(rows["y"], 3)).sum(-1) / 2
        kl = ((jnp.exp(p) - jnp.exp(q)) * (p - q)).sum(-1) / 2
        found = tuple((v * weights).sum() / weights.sum() for v in (nll, alpha * kl))
        return sum(found), found

    (_, found), slopes = jax.jit(jax.value_and_grad(values, has_aux=True))(params)
    return *found, slopes


def test_both_terms_and_their_gradients_are_the_papers_over_the_rows_that_count():
    mask, weights = np.arange(8) % 4 > 0, np.linspace(0.5, 2, 8).astype(np.float32)
    x = np.where(mask[:, None], ROWS["x"], np.nan)
    objective = r_drop(NET, lambda step: 0.1 * step)

    def found(params):
        terms, _ = objective(params, {}, {**ROWS, "x": x, "mask": mask, "weights": weights}, KEY, 7)
        return total(terms), terms

    (_, terms), slopes = jax.jit(jax.value_and_grad(found, has_aux=True))(START.params)
    nll, kl, reference = by_hand(NET, START.params, ROWS, mask * weights, 0.7)
    assert float(kl) > 0.1
    np.testing.assert_allclose(terms["supervised"].value, nll, rtol=1e-5)
    np.testing.assert_allclose(terms["r_drop"].value, kl, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), slopes, reference)


def test_the_divergence_is_that_of_the_authors_code():
    torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
    p, q = (torch.log_softmax(torch.tensor(np.asarray(z)), -1) for z in passes(NET, START, ROWS["x"]))
    both = [torch.nn.functional.kl_div(a, b, reduction="sum", log_target=True) for a, b in ((p, q), (q, p))]
    terms = terms_of(r_drop(NET, 1.0), ROWS)
    np.testing.assert_allclose(terms["r_drop"].value, float(sum(both)) / 2 / 8, rtol=1e-5)


def test_ignored_elements_do_not_count_in_the_divergence():
    draw = np.random.default_rng(0)
    rows = {"x": draw.normal(size=(4, 5, 6)).astype(np.float32), "y": draw.integers(0, 3, (4, 5))}
    rows["mask"] = np.array([True, True, False, True])
    rows["y"][:, 3:] = -100
    net = network(backbone=from_linen(Dropped()), head=heads.linear(3, reads=whole("last")))
    start = net.init(KEY, rows["x"])
    terms = terms_of(r_drop(net, 2.0, ignore=-100), rows, start)
    nll, kl, _ = by_hand(net, start.params, rows, (rows["y"] >= 0) * rows["mask"][:, None], 2.0)
    np.testing.assert_allclose(terms["supervised"].value, nll, rtol=1e-5)
    np.testing.assert_allclose(terms["r_drop"].value, kl, rtol=1e-5)


def test_padding_tokens_do_not_count():
    ids = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    x = {"ids": ids, "mask": np.arange(6)[None] < np.array([[5], [3]])}
    body = network(backbone=from_linen(Dropped()), head=heads.linear(3, reads=whole("last")))
    backbone = body.parts["backbone"]
    tokens = backbone._replace(
        init=lambda key, x: backbone.init(key, x["ids"]),
        apply=lambda v, x, *, train, key=None: backbone.apply(v, x["ids"], train=train, key=key),
    )
    net = network(backbone=tokens, head=heads.linear(3, reads=whole("last")))
    start = net.init(KEY, x)
    y = np.zeros((2, 6), int)
    terms = terms_of(r_drop(net, 1.0), {"x": x, "y": y}, start)
    _, kl, _ = by_hand(body, start.params, {"x": ids, "y": y}, x["mask"], 1.0)
    np.testing.assert_allclose(terms["r_drop"].value, kl, rtol=1e-5)


def test_without_dropout_it_is_fine_tuning_with_its_terms():
    net, _, start = parts(KEY, ROWS["x"])
    terms = [bss(0.1)]
    plain = terms_of(finetune(net, terms=terms), ROWS, start)
    found, aux = jax.jit(lambda p: r_drop(net, 1.0, terms=terms)(p, {}, ROWS, KEY, 0))(start.params)
    assert float(found["r_drop"].value) == 0
    np.testing.assert_allclose(found["supervised"].value, plain["supervised"].value, rtol=1e-6)
    assert found.keys() == plain.keys() | {"r_drop"}
    assert {name: len(a) for name, a in aux.outputs.items()} == dict.fromkeys(aux.outputs, 8)
    np.testing.assert_array_equal(aux.outputs["y"], ROWS["y"])


def test_eight_devices_and_microbatches_keep_both_passes_of_a_row_together():
    objective = r_drop(NET, 1.0)
    mesh = jax.make_mesh((8,), ("batch",))
    spread = jax.device_put(ROWS, NamedSharding(mesh, PartitionSpec("batch")))
    value = jax.jit(lambda rows: total(objective(START.params, {}, rows, KEY, 0)[0]))
    np.testing.assert_allclose(value(spread), value(ROWS), rtol=1e-5)
    step = make_step(objective, optax.sgd(0.0), microbatch=4)
    _, metrics = jax.jit(step)(step.init(START, KEY), ROWS)
    assert float(metrics["r_drop"]) > 0.1


def test_a_distance_of_ones_own_serves_regression():
    rows = {**ROWS, "y": ROWS["x"][:, :3]}
    terms = terms_of(r_drop(NET, 0.5, mse, distance=mse, metrics={}), rows)
    z, other = passes(NET, START, rows["x"])
    np.testing.assert_allclose(terms["r_drop"].value, 0.5 * ((z - other) ** 2).mean(), rtol=1e-5)


def test_a_batch_that_is_fully_masked_is_zero_with_zero_gradient():
    rows = {**ROWS, "x": ROWS["x"] * np.nan, "mask": np.zeros(8, bool)}
    found = jax.jit(jax.value_and_grad(lambda p: total(r_drop(NET, 1.0)(p, {}, rows, KEY, 0)[0])))
    value, slopes = found(START.params)
    assert float(value) == 0
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(slopes))


def test_bad_input_raises():
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"^r_drop: weight={weight}; give a finite number that is not"):
            r_drop(NET, weight)
    two = network(backbone=dense(8), a=top(3), b=top(1))
    start = two.init(KEY, ROWS["x"])
    with pytest.raises(ValueError, match=r"logits of several classes, and is \{'a'"):
        terms_of(r_drop(two, 1.0, lambda z, y: mse(z["b"], y[:, None] * 1.0), metrics={}), ROWS, start)
    named = {**ROWS, "y": {"a": ROWS["x"][:, :3]}, "weights": {"a": np.ones(8, np.float32)}}
    objective = r_drop(NET, 1.0, lambda z, y: {"a": mse(z, y["a"])}, metrics={})
    with pytest.raises(ValueError, match=r"weights by name, \['a'\]"):
        terms_of(objective, named)

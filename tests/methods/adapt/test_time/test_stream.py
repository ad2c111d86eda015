"""The stream: what changes, what stays bit-equal, and when it starts again."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import dense, normed, top

from jtl.heads import mlp
from jtl.methods.adapt.test_time.cotta import cotta
from jtl.methods.adapt.test_time.eata import eata
from jtl.methods.adapt.test_time.norms import by_batch, norms
from jtl.methods.adapt.test_time.roid import roid
from jtl.methods.adapt.test_time.sar import sar
from jtl.methods.adapt.test_time.stream import ensemble, restore, stream
from jtl.methods.adapt.test_time.tent import batch_statistics, tent
from jtl.metrics.accumulate import total
from jtl.model import Variables, from_linen
from jtl.networks import network
from jtl.nn.batch_norm import BatchNorm
from jtl.params import flatten, select

NET = network(backbone=normed(8), head=top(3))
X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
BATCH = {"x": X}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def variables():
    made = NET.init(jax.random.key(0), X)
    return made._replace(stats=jax.tree.map(lambda s: s + 0.3, made.stats))


def entropy_by_hand(params, x):
    """In float64, from the formulas: a dense layer, batch normalisation by the batch, ReLU, a dense layer."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    h = x @ p["backbone"]["layer"]["kernel"]
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * p["backbone"]["norm"]["scale"] + p["backbone"]["norm"]["bias"]
    z = np.maximum(h, 0) @ p["head"]["out"]["kernel"] + p["head"]["out"]["bias"]
    e = np.exp(z - z.max(1, keepdims=True))
    q = e / e.sum(1, keepdims=True)
    return z, -(q * np.log(q)).sum(1)


def test_a_step_predicts_and_then_descends_the_entropy(variables):
    """The gradient by central differences of the formula above."""
    adapting = stream(tent(NET), optax.sgd(0.1))
    state = adapting.init(variables, jax.random.key(1), BATCH)
    after, logits = jax.jit(adapting.step)(state, BATCH)
    z, _ = entropy_by_hand(variables.params, X)
    np.testing.assert_allclose(logits, z, atol=1e-5)
    for name in ("scale", "bias"):
        start = np.asarray(variables.params["backbone"]["norm"][name], np.float64)
        slope = np.zeros_like(start)
        for i in range(len(start)):
            found = []
            for d in (1e-5, -1e-5):
                moved = {"scale": variables.params["backbone"]["norm"]["scale"],
                         "bias": variables.params["backbone"]["norm"]["bias"]}  # fmt: skip
                moved[name] = start + d * np.eye(len(start))[i]
                params = {**variables.params, "backbone": {**variables.params["backbone"], "norm": moved}}
                found.append(entropy_by_hand(params, X)[1].mean())
            slope[i] = (found[0] - found[1]) / 2e-5
        np.testing.assert_allclose(after.variables.params["backbone"]["norm"][name], start - 0.1 * slope, atol=1e-5)


def test_all_but_norms_stays_bit_equal(variables):
    adapting = stream(tent(NET), optax.adam(0.1))
    state = adapting.init(variables, jax.random.key(1), BATCH)
    for _ in range(3):
        state, _ = jax.jit(adapting.step)(state, BATCH)
    before, after = flatten(variables.params), flatten(state.variables.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {"backbone/norm/scale", "backbone/norm/bias"}
    jax.tree.map(np.testing.assert_array_equal, state.variables.stats, variables.stats)


class Layers(nn.Module):
    """Two dense layers with a normalisation between them."""

    norm: str

    @nn.compact
    def __call__(self, x, train):
        make = {"batch": lambda: BatchNorm(name="norm"), "group": lambda: nn.GroupNorm(2, name="norm"),
                "layer": lambda: nn.LayerNorm(name="norm")}[self.norm]  # fmt: skip
        x = nn.Dense(8, name="first")(x)
        x = make()(x, train) if self.norm == "batch" else make()(x)
        return {"pooled": nn.relu(nn.Dense(8, name="second")(nn.relu(x)))}


def jitter(key, x):
    return x + 0.1 * jax.random.normal(key, x.shape)


OBJECTIVES = {
    "tent": tent,
    "eata": lambda net: eata(net, near=1.0, margin=1.0),
    "sar": lambda net: sar(net, margin=1.0),
    "roid": lambda net: roid(net, jitter),
    "cotta": lambda net: cotta(net, jitter, views=2, confident=1.0),
}


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_method_moves_norms_alone_whatever_they_are(name, norm):
    net = network(backbone=from_linen(Layers(norm)), head=top(3))
    adapting = stream(OBJECTIVES[name](net), optax.adam(0.1))
    state = adapting.init(net.init(jax.random.key(0), X), jax.random.key(1), BATCH)
    after, _ = jax.jit(adapting.step)(state, BATCH)
    before, params = flatten(state.variables.params), flatten(after.variables.params)
    moved = {path for path in before if not np.array_equal(before[path], params[path])}
    assert moved == {"backbone/norm/scale", "backbone/norm/bias"}
    own = state.variables.stats.get("backbone", {})
    assert bool(own) == (norm == "batch")
    jax.tree.map(np.testing.assert_array_equal, after.variables.stats.get("backbone", {}), own)


class Deep(nn.Module):
    """Wide enough that matrix products are nearly all of the work."""

    @nn.compact
    def __call__(self, x, train):
        for _ in range(3):
            x = nn.relu(nn.BatchNorm(not train)(nn.Dense(64, use_bias=False)(x)))
        return {"pooled": x}


def test_a_step_passes_once_forward_and_once_back_to_the_norms():
    """No second pass for the logits, and no gradient of a frozen weight: a trained network would need three times."""
    net, x = network(backbone=from_linen(Deep()), head=top(3)), jnp.ones((64, 64))
    made = net.init(jax.random.key(0), x)
    adapting = stream(tent(net), optax.sgd(0.1), guard=0.2)
    state = adapting.init(made, jax.random.key(1), {"x": x})

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    forward = flops(lambda v: net.apply(v, x, train=True)[0].output, made)
    assert 1.5 * forward < flops(adapting.step, state, {"x": x}) < 2.1 * forward


def test_a_reset_restores_the_bits(variables):
    adapting = stream(tent(NET), optax.adam(0.1))
    start = adapting.init(variables, jax.random.key(1), BATCH)
    state, _ = jax.jit(adapting.step)(start, BATCH)
    again = adapting.reset(state)
    jax.tree.map(np.testing.assert_array_equal, (again.variables, again.opt), (start.variables, start.opt))
    assert int(again.step) == 1


def test_without_learning_all_batches_are_predicted_by_their_statistics(variables):
    adapting = stream(batch_statistics(NET), optax.set_to_zero())
    state = adapting.init(variables, jax.random.key(1), BATCH)
    for shift in (0.0, 2.0):
        state, logits = jax.jit(adapting.step)(state, {"x": 3 * X + shift})
        z, _ = entropy_by_hand(variables.params, X)
        np.testing.assert_allclose(logits, z, atol=1e-3)  # normalisation undoes scale and shift, but for epsilon
    jax.tree.map(np.testing.assert_array_equal, state.variables, variables)


def test_the_guard_starts_again_where_the_loss_is_low(variables):
    free = stream(tent(NET), optax.sgd(0.1))
    _, loss = entropy_by_hand(variables.params, X)
    for guard, resets in ((float(loss.mean()) * 0.99, 0), (float(loss.mean()) * 1.01, 1)):
        adapting = stream(tent(NET), optax.sgd(0.1), guard=guard)
        state, _ = jax.jit(adapting.step)(adapting.init(variables, jax.random.key(1), BATCH), BATCH)
        assert int(state.resets) == resets
        expected = (
            variables if resets else jax.jit(free.step)(free.init(variables, jax.random.key(1), BATCH), BATCH)[0][0]
        )
        jax.tree.map(np.testing.assert_array_equal, state.variables, expected)
    with pytest.raises(ValueError, match="guard=0"):
        stream(tent(NET), optax.sgd(0.1), guard=0)


def test_the_guard_of_a_loss_that_is_no_entropy_watches_the_entropy(variables):
    """ROID's loss is negative where predictions are certain: a guard of the loss would reset at every batch."""
    sure = variables._replace(
        params={**variables.params, "head": jax.tree.map(lambda a: 9 * a, variables.params["head"])}
    )
    loss, aux = roid(NET, None)(sure.params, roid(NET, None).init(KEY, BATCH, sure).stats, BATCH, KEY, 0)
    h = float(aux.metrics["entropy"].value)
    assert total(loss) < 0 < h
    z = np.asarray(NET.apply(sure, BATCH["x"], train=True)[0].output, np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(h, -(p * np.log(p)).sum(1).mean(), rtol=1e-4)
    for guard, resets in ((0.99 * h, 0), (1.01 * h, 1)):
        adapting = stream(roid(NET, None), optax.sgd(0.0), guard=guard)
        state, _ = jax.jit(adapting.step)(adapting.init(sure, KEY, BATCH), BATCH)
        assert int(state.resets) == resets


def test_batches_without_a_reliable_row_do_not_trip_the_guard(variables):
    """The loss of no row is no loss of 0: the model is uncertain, and has not collapsed."""
    flat = variables._replace(
        params={**variables.params, "head": jax.tree.map(jnp.zeros_like, variables.params["head"])}
    )
    adapting = stream(sar(NET), optax.sgd(0.1), guard=0.2)
    step, state = jax.jit(adapting.step), adapting.init(flat, jax.random.key(1), BATCH)
    state, _ = step(state._replace(loss=jnp.float32(0.25)), BATCH)  # every entropy is ln 3
    assert (float(state.loss), int(state.resets)) == (0.25, 0)
    sharp = flat._replace(params=jax.tree.map(lambda p: 1e3 * p, variables.params))
    state, _ = step(state._replace(variables=sharp), BATCH)  # every entropy is near 0
    assert float(state.loss) == pytest.approx(0.9 * 0.25, rel=1e-3)
    masked = stream(tent(NET), optax.sgd(0.1), guard=0.2)
    state = masked.init(variables, jax.random.key(1), BATCH)._replace(loss=jnp.float32(0.21))
    state, _ = jax.jit(masked.step)(state, {"x": X, "mask": np.zeros(12, bool)})
    assert (float(state.loss), int(state.resets)) == (pytest.approx(0.21), 0)


def test_a_step_that_is_not_finite_changes_nothing(variables):
    adapting = stream(tent(NET), optax.adam(0.1))
    start = adapting.init(variables, jax.random.key(1), BATCH)
    bad = X.copy()
    bad[0, 0] = np.nan
    state, _ = jax.jit(adapting.step)(start, {"x": bad})
    jax.tree.map(np.testing.assert_array_equal, (state.variables, state.opt), (start.variables, start.opt))


def test_episodes_do_not_know_of_each_other(variables):
    adapting = stream(tent(NET), optax.sgd(0.1), episodic=True)
    step, state = jax.jit(adapting.step), adapting.init(variables, jax.random.key(1), BATCH)
    state, first = step(state, BATCH)
    state, _ = step(state, {"x": X * X})
    _, again = step(state, BATCH)
    np.testing.assert_array_equal(first, again)
    online = stream(tent(NET), optax.sgd(0.1))
    state, before = jax.jit(online.step)(online.init(variables, jax.random.key(1), BATCH), BATCH)
    _, after = jax.jit(online.step)(state, BATCH)
    np.testing.assert_allclose(first, after, atol=1e-6)  # of the adapted network, where online predicts before
    assert np.abs(first - before).max() > 1e-4


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_restoration_returns_its_share(share):
    params, start = {"a": jnp.ones((100, 100))}, {"a": jnp.zeros((100, 100))}
    back = float((restore(share)(jax.random.key(0), params, start)["a"] == 0).mean())
    assert back == pytest.approx(share, abs=0.02)
    with pytest.raises(ValueError, match="share=2"):
        restore(2)


def test_the_ensemble_is_the_weighted_mean():
    mixed = ensemble(0.9)(jax.random.key(0), {"a": jnp.array([1.0])}, {"a": jnp.array([3.0])})
    np.testing.assert_allclose(mixed["a"], [1.2], rtol=1e-6)


def test_norms_are_layers_of_scale_and_bias_alone():
    layer = {"scale": jnp.ones(3), "bias": jnp.ones(3)}
    block = {"scale": jnp.ones(3), "norm": layer, "dense": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    mask = flatten(norms({"block": block, "rms": {"scale": jnp.ones(3)}}))
    assert sorted(path for path, chosen in mask.items() if chosen) == [
        "block/norm/bias",
        "block/norm/scale",
        "rms/scale",
    ]
    with pytest.raises(ValueError, match="no normalisation layer"):
        norms({"dense": {"kernel": jnp.ones((3, 3))}})


def test_dropout_is_off_and_statistics_stay(variables):
    net = network(backbone=normed(8), head=mlp(3, (4,), dropout=0.5))
    made = net.init(jax.random.key(0), X)
    quiet = by_batch(net)
    one, stats = quiet.apply(made, X, train=True, key=jax.random.key(1))
    two, _ = quiet.apply(made, X, train=True, key=jax.random.key(2))
    np.testing.assert_array_equal(one.output, two.output)
    jax.tree.map(np.testing.assert_array_equal, stats, made.stats)


def test_masked_rows_do_not_move_a_network_without_batch_norm():
    net = network(backbone=dense(8), head=top(3))
    made = net.init(jax.random.key(0), X)
    adapting = stream(tent(net), optax.sgd(0.1), trainable=select("head/.*"))
    full = adapting.init(made, jax.random.key(1), BATCH)
    bad = np.concatenate([X, np.full((2, 5), np.nan, np.float32)])
    masked, _ = jax.jit(adapting.step)(full, {"x": bad, "mask": np.arange(14) < 12})
    plain, _ = jax.jit(adapting.step)(full, BATCH)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), masked.variables, plain.variables)


def test_rows_that_fill_up_a_batch_are_in_its_statistics(variables):
    """They are real examples, where zeros would move the mean; only what cannot be computed with is a zero."""
    adapting, mask = stream(tent(NET), optax.sgd(0.1)), np.arange(12) < 4
    step, state = jax.jit(adapting.step), adapting.init(variables, jax.random.key(1), BATCH)
    _, whole = step(state, BATCH)
    _, filled = step(state, {"x": X, "mask": mask})
    np.testing.assert_array_equal(filled, whole)
    bad = np.where(mask[:, None], X, np.nan).astype(np.float32)
    after, logits = step(state, {"x": bad, "mask": mask})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.variables, logits)))


class Map(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(x)[:, None]


def test_an_output_that_is_no_logits_is_refused():
    net = network(backbone=dense(4), head=from_linen(Map()))
    made = net.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"\[batch, classes\]; this network gives \(12, 1, 2\)"):
        tent(net)(made.params, made.stats, BATCH, jax.random.key(0), 0)


def test_variables_given_are_kept(variables):
    state = stream(tent(NET), optax.sgd(0.1)).init(variables, jax.random.key(5), BATCH)
    jax.tree.map(np.testing.assert_array_equal, state.variables, Variables(variables.params, variables.stats))

"""One model of a backbone and heads: routing by what each head reads, initialisation, and what is given."""

from inspect import unwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import batch, dense, normed, top

from jtl import backbones, heads, rng
from jtl.methods.adapt.adapt import adapt
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Model, Variables, from_linen
from jtl.networks import network, part, parts_of
from jtl.objective import Objective, as_objective, complete
from jtl.params import flatten
from jtl.reads import Masked, Read, reads, whole
from jtl.typing import Aux


def features(key):
    draw = np.random.default_rng(0)
    return {
        "pooled": draw.normal(size=(2, 4)).astype(np.float32),
        "last": draw.normal(size=(2, 3, 5)).astype(np.float32),
        "map": draw.normal(size=(2, 6, 7, 8)).astype(np.float32),
    }


def fixed(given):
    """A backbone that returns what it is told."""
    return Model(lambda key, x: Variables({}, {}), lambda v, x, *, train, key=None: (given, v.stats))


def test_a_vector_is_the_mean_over_positions_and_over_tokens_that_count(key):
    given, mask = features(key), np.array([[True, True, False], [True, False, False]])
    np.testing.assert_allclose(reads("map")(given), given["map"].mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(reads("last")(given), given["last"].mean(1), atol=1e-6)
    by_hand = np.stack([given["last"][0, :2].mean(0), given["last"][1, 0]])
    np.testing.assert_allclose(reads("last")(given, {"mask": mask}), by_hand, atol=1e-6)
    both = reads(("pooled", "last"))(given, {"mask": mask})
    np.testing.assert_allclose(both, np.concatenate([given["pooled"], by_hand], -1), atol=1e-6)


def test_whole_features_come_as_they_are(key):
    given = features(key)
    assert whole("map")(given) is given["map"]
    assert set(whole("map", "last")(given)) == {"map", "last"}
    mask = np.ones((2, 3), bool)
    found = whole("last", masked=True)(given, {"mask": mask})
    assert isinstance(found, Masked)
    np.testing.assert_array_equal(found.mask, mask)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Read(()), r"names=\(\)"),
        (lambda: Read(("a",), "mean"), "form='mean'"),
        (lambda: Read(masked=True), "a vector has no positions"),
        (lambda: reads("other")({"pooled": 1}), r"reads the feature 'other'; the backbone returns \['pooled'\]"),
        (lambda: whole("last", masked=True)({"last": np.zeros((2, 3, 4))}), "comes without a mask"),
    ],
)
def test_reads_that_cannot_be_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_whole_network_in_place_of_its_backbone_is_told(key):
    net, x = network(backbone=dense(4), head=top(3)), np.ones((2, 5), np.float32)
    with pytest.raises(TypeError, match="features are Outputs, and a head reads them by name: give what a backbone"):
        unwrap(Read.__call__)(Read(), net.apply(net.init(key, x), x, train=False)[0])


class Body(nn.Module):
    """A flax module as its user has it: an array out."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(x)


def test_a_backbone_that_returns_an_array_is_told_to_return_names(key):
    net = network(backbone=from_linen(Body()), head=heads.linear(2))
    with pytest.raises(TypeError, match=r"returns an array of shape \(4, 3\), .* a dict of them, as \{'pooled': x\}"):
        jax.jit(net.init)(key, np.ones((4, 5), np.float32))


@pytest.mark.parametrize("make", [finetune, evaluation, adapt])
def test_a_whole_classifier_of_flax_is_told_what_to_be(make, key):
    rows = {"x": np.ones((4, 5), np.float32), "y": np.zeros(4, int)}
    net = from_linen(Body())
    variables, given = net.init(key, rows["x"]), {"source": rows, "target": rows} if make is adapt else rows
    with pytest.raises(TypeError, match=r"returns an array of shape \(\d, 3\), and no features.*reads='logits'"):
        jax.jit(make(net).loss)(variables.params, variables.stats, given, key, 0)


def test_a_classifier_that_returns_its_features_too_is_a_network(key):
    class Whole(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            pooled = nn.relu(nn.Dense(8)(x))
            return {"pooled": pooled, "logits": nn.Dense(3)(pooled)}

    rows = {"x": np.ones((4, 5), np.float32), "y": np.zeros(4, int)}
    net = network(backbone=from_linen(Whole()), head=heads.identity(reads="logits"))
    objective = adapt(net)
    variables = objective.init(key, {"source": rows, "target": rows})
    _, aux = jax.jit(objective.loss)(variables.params, variables.stats, {"source": rows, "target": rows}, key, 0)
    assert aux.outputs["source"].shape == (4, 3)


def test_each_head_is_initialised_on_what_it_reads_and_given_that(key):
    given = features(key)
    net = network(backbone=fixed(given), a=heads.linear(2, reads="map"), b=heads.linear(3, reads=("pooled", "last")))
    variables = net.init(key, np.zeros((2, 1)))
    assert {path: leaf.shape for path, leaf in flatten(variables.params).items() if path.endswith("kernel")} == {
        "a/out/kernel": (8, 2),
        "b/out/kernel": (9, 3),
    }
    out, _ = net.apply(variables, np.zeros((2, 1)), train=False)
    expected = given["map"].mean((1, 2)) @ variables.params["a"]["out"]["kernel"]
    np.testing.assert_allclose(out.output["a"], expected, rtol=1e-5)
    assert out.output["b"].shape == (2, 3)


def test_one_head_is_the_output_whatever_its_name_and_none_is_the_features(key):
    x = np.ones((2, 5), np.float32)
    net = network(backbone=dense(4), digits=top(3))
    assert net.apply(net.init(key, x), x, train=False)[0].output.shape == (2, 3)
    bare = network(backbone=dense(4))
    assert set(bare.apply(bare.init(key, x), x, train=False)[0].output) == {"pooled", "last"}


def test_parts_draw_from_streams_of_their_own(key):
    x = np.ones((2, 5), np.float32)
    alone, more = network(backbone=dense(4), head=top(3)), network(backbone=dense(4), other=top(2), head=top(3))
    one, two = alone.init(key, x), more.init(key, x)
    for name in ("backbone", "head"):
        jax.tree.map(np.testing.assert_array_equal, one.params[name], two.params[name])
    by_hand = dense(4).init(rng.stream(key, "backbone"), x)
    jax.tree.map(np.testing.assert_array_equal, one.params["backbone"], by_hand.params)


def test_statistics_of_all_parts_come_back(key):
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    net = network(backbone=normed(4), head=top(3))
    variables = net.init(key, x)
    _, stats = net.apply(variables, x, train=True, key=key)
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    assert float(jnp.abs(stats["backbone"]["norm"]["mean"]).max()) > 0
    assert part(variables, "head").stats == {}
    with pytest.raises(ValueError, match="no parameters under 'critic'"):
        part(variables, "critic")
    with pytest.raises(ValueError, match="no parts"):
        parts_of(dense(4))


def test_only_what_is_missing_is_initialised_and_to_the_same_bits(key):
    rows = batch()
    net = network(backbone=backbones.mlp((8, 6)), head=heads.linear(3))
    objective = finetune(net)
    every = objective.init(key, rows)
    jax.tree.map(np.testing.assert_array_equal, every, net.init(key, rows["x"]))
    given = Variables({"backbone": jax.tree.map(lambda a: a + 1, every.params["backbone"]), "extra": {"w": 1.0}}, {})
    found = objective.init(key, rows, given)
    jax.tree.map(np.testing.assert_array_equal, found.params["head"], every.params["head"])
    assert found.params["backbone"] == given.params["backbone"]
    assert found.params["extra"] == {"w": 1.0}
    assert objective.init(key, rows, found) is found


def test_a_given_part_of_another_width_is_named(key):
    rows = batch()
    net = network(backbone=backbones.mlp((8,)), head=heads.linear(3))
    other = network(backbone=backbones.mlp((6,)), head=heads.linear(3)).init(key, rows["x"])
    with pytest.raises(ValueError, match=r"'backbone/stage1/dense/kernel' is given with shape \(5, 6\).*\(5, 8\)"):
        finetune(net).init(key, rows, other)


def test_initialising_what_is_missing_does_not_compute_what_is_given(key):
    computed = []

    def init(key, x):
        value = jnp.ones(3)
        jax.debug.callback(lambda: computed.append("large"))
        return Variables({"a": {"w": value * 2}, "b": {"w": jnp.zeros(2)}}, {})

    given = Variables({"a": {"w": jnp.zeros(3)}, "b": {"w": jnp.zeros(2)}}, {})
    assert complete(init, key, jnp.zeros(1), given) is given
    assert computed == []


def test_a_bare_function_is_an_objective(key):
    def loss(params, stats, batch, key, step):
        return params["w"], Aux(stats)

    objective = as_objective(loss)
    given = Variables({"w": jnp.ones(())}, {})
    assert objective.init(key, {}, given) is given
    assert objective.commit({"s": 1}, {}) == {"s": 1}
    assert as_objective(objective) is objective
    assert Objective(loss)({"w": 2.0}, {}, {}, key, 0)[0] == 2.0
    with pytest.raises(TypeError, match="3 is no objective"):
        as_objective(3)

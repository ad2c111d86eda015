"""Shapes by tracing each kind of layer once: as `jax.eval_shape` gives them, and of use to nobody else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import backbones, heads
from jtl._tracing.eval_shape import shapes
from jtl.backbones.registry import FAMILIES
from jtl.model import from_linen
from jtl.networks import network

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
SIZE = backbones.Size(12, 3, 3, 8)
CONFIGS = {
    "gpt2": {"n_embd": 12, "n_head": 3, "n_layer": 3, "n_inner": 8, "n_positions": 8, "vocab_size": 20},
    "densenet": {"growth_rate": 4, "depths": [2, 2], "embedding_size": 4, "bottleneck_ratio": 2},
}


def networks():
    yield "vit", backbones.vit(SIZE, patch=8, image=32, drop_path=0.3), IMAGE
    yield "resnet", backbones.cifar_resnet(14), IMAGE
    for kind, config in CONFIGS.items():
        family = FAMILIES[kind]
        config = family.complete({"model_type": kind, **config}, "transformers")
        yield kind, family.backbone(config), family.example(config)


@pytest.mark.parametrize(("backbone", "x"), [pytest.param(*net[1:], id=net[0]) for net in networks()])
def test_shapes_are_those_of_eval_shape_in_the_same_order(backbone, x, key):
    make = network(backbone=backbone, head=heads.linear(5)).init
    ours, whole = shapes(make, key, x), jax.eval_shape(make, key, x)
    assert jax.tree.structure(ours) == jax.tree.structure(whole)
    assert jax.tree.leaves(ours) == jax.tree.leaves(whole)


def counted(runs):
    class Layer(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x, train):
            runs.append(self.width)
            return nn.Dense(self.width)(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            for width in (4, 4, 4, 4, 3, 4):
                x = Layer(width)(x, train)
            return {"pooled": x}

    return from_linen(Net())


def test_layers_that_are_alike_run_once(key):
    runs = []
    model, x = counted(runs), jnp.ones((2, 4))
    found = shapes(network(backbone=model, head=heads.linear(2)).init, key, x)
    # One of width 4, one of 3, one of 4 on an input of 3: and none again for what the head sees.
    assert runs == [4, 3, 4]
    assert len(jax.tree.leaves(found.params["backbone"])) == 12


def test_no_other_trace_gets_what_was_left_out(key):
    model, x = counted([]), jnp.ones((2, 4))
    shapes(model.init, key, x)
    drawn = jax.jit(model.init)(key, x)
    assert all(np.abs(leaf["Dense_0"]["kernel"]).max() > 0 for leaf in drawn.params.values())
    assert np.abs(jax.jit(lambda v: model.apply(v, x, train=False)[0]["pooled"])(drawn)).max() > 0

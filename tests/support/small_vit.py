"""A small ViT, its random parameters, and runs of it."""

import jax
import numpy as np

from jtl import backbones, heads
from jtl.networks import network
from jtl.params import flatten, unflatten

SIZE = backbones.Size(16, 2, 2, 32)
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def base():
    net = network(backbone=backbones.vit(SIZE, patch=4, image=8), head=heads.linear(3))
    shapes, draw = jax.eval_shape(net.init, jax.random.key(0), IMAGES), np.random.default_rng(1)
    return net, jax.tree.map(lambda s: (0.3 * draw.normal(size=s.shape)).astype(s.dtype), shapes)


def randomised(variables):
    draw = np.random.default_rng(2)
    flat = {
        path: 0.5 * draw.normal(size=leaf.shape).astype(np.float32) if "/adapter/" in path else leaf
        for path, leaf in flatten(variables.params).items()
    }
    return variables._replace(params=unflatten(flat))


def runs(net, images=IMAGES):
    """The network's output as a function of its variables, compiled once."""
    return jax.jit(lambda v: net.apply(v, images, train=False)[0].output)


def run(net, variables, images=IMAGES):
    return np.asarray(runs(net, images)(variables))


def adapter_of(variables, path):
    """The adapter's parameters at a module of the backbone, in float64."""
    prefix = f"backbone/adapter/{path}/"
    flat = flatten(variables.params)
    return {name.removeprefix(prefix): np.asarray(a, np.float64) for name, a in flat.items() if name.startswith(prefix)}

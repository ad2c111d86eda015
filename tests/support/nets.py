"""Small networks that the tests of this folder share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann
from jtl.model import Model, Variables, from_linen
from jtl.networks import network
from jtl.nn.batch_norm import BatchNorm


class Dense(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train: bool):
        for i, width in enumerate(self.widths):
            x = nn.relu(nn.Dense(width, name=f"layer{i}")(x))
        return {"pooled": x, "last": x}


class Normed(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool):
        # No bias before the norm: its gradient is zero but for rounding, which adam would blow up to full steps.
        x = nn.Dense(self.width, use_bias=False, name="layer")(x)
        x = BatchNorm(name="norm")(x, train)
        return {"pooled": nn.relu(x), "last": x}


class Top(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dense(self.width, name="out")(x)


def dense(*widths: int) -> Model:
    return from_linen(Dense(widths))


def normed(width: int) -> Model:
    return from_linen(Normed(width))


def top(width: int) -> Model:
    return from_linen(Top(width))


def parts(key, x, classes=3, widths=(16, 8), critic=False) -> tuple[Model, Model, Variables]:
    """A network, a critic, and the variables of both."""
    net, judge = network(backbone=dense(*widths), head=top(classes)), top(1)
    if not critic:
        return net, judge, net.init(key, x)
    batch = {"source": {"x": x, "y": np.zeros(len(x), np.int32)}, "target": {"x": x}}
    return net, judge, adapt(net, alignments=[dann(judge)]).init(key, batch)


def batch(n=24, dim=5, classes=3, seed=0, masked=False):
    draw = np.random.default_rng(seed)
    rows = {"x": draw.normal(size=(n, dim)).astype(np.float32), "y": draw.integers(0, classes, n).astype(np.int32)}
    return rows | ({"mask": draw.random(n) < 0.7} if masked else {})


def largest_difference(a, b) -> float:
    return max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

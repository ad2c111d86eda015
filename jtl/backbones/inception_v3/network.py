"""Inception-v3: blocks of branches whose maps are concatenated."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.checked import positive
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import ConvNorm, Style
from jtl.nn.layers import check_images
from jtl.nn.pooling import max_pool, mean_around


class Layer(NamedTuple):
    """A convolution of a branch.

    Args:
      channels: channels of the output, at width 1.
      kernel: its side, or (height, width).
      stride: 2 is without padding, 1 with padding that keeps the map's size.
    """

    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1


Branch = Sequence[Layer | Literal["mean", "max"] | tuple[Layer, Layer]]
"""Layers in sequence; "mean" or "max" is 3x3 pooling at stride 1 or 2; a pair sees the same map and is concatenated."""


def _a(pooled: int) -> list[Branch]:
    return [
        [Layer(64)],
        [Layer(48), Layer(64, 5)],
        [Layer(64), Layer(96, 3), Layer(96, 3)],
        ["mean", Layer(pooled)],
    ]


def _c(inner: int) -> list[Branch]:
    row, column = Layer(inner, (1, 7)), Layer(inner, (7, 1))
    return [
        [Layer(192)],
        [Layer(inner), row, Layer(192, (7, 1))],
        [Layer(inner), column, row, column, Layer(192, (1, 7))],
        ["mean", Layer(192)],
    ]


_B: list[Branch] = [[Layer(384, 3, 2)], [Layer(64), Layer(96, 3), Layer(96, 3, 2)], ["max"]]
_D: list[Branch] = [
    [Layer(192), Layer(320, 3, 2)],
    [Layer(192), Layer(192, (1, 7)), Layer(192, (7, 1)), Layer(192, 3, 2)],
    ["max"],
]
_PAIR = (Layer(384, (1, 3)), Layer(384, (3, 1)))
_E: list[Branch] = [[Layer(320)], [Layer(384), _PAIR], [Layer(448), Layer(384, 3), _PAIR], ["mean", Layer(192)]]
STAGES = ((_a(32), _a(64), _a(64)), (_B, _c(128), _c(160), _c(160), _c(192)), (_D, _E, _E))
"""The blocks of stages 3 to 5, each a list of branches."""


def inception_v3(
    width: float = 1.0, *, depths: Sequence[int] = (3, 5, 3), eps: float = 1e-3, momentum: float = 0.1
) -> Model:
    """An Inception-v3: a stem of convolutions and pooling, then three stages of blocks.

    The auxiliary classifier after the fifth block of the fourth stage, which helped to train the published weights, is
    left out. Features: `stage1` to `stage5` [batch, h, w, c], the last map of each resolution: 147, 71, 35, 17 and 8
    pixels for images of 299; `last`, the last of them; `pooled`, its mean over pixels, 2048 wide. Parameters:
    `stem/conv1/conv/kernel`, `stem/conv1/norm/scale`, ..., `stage3/block1/branch2/conv1/conv/kernel`, ...

    Args:
      width: factor for all channels.
      depths: how many blocks of each of the last three stages are used, from the first on.
      eps: epsilon of the normalisations.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for an impossible width or depth; when called on images under 75x75 pixels.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.inception_v3(0.25, depths=(1, 1, 1)), jnp.zeros((2, 80, 80, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 1, 1, 312), (2, 312))

    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2015, arXiv 1512.00567.
    """
    positive(width=width)
    if len(depths) != 3 or not all(1 <= depth <= len(stage) for depth, stage in zip(depths, STAGES, strict=True)):
        raise ValueError(f"depths={tuple(depths)}: give up to {tuple(map(len, STAGES))}, and at least 1 of each")
    stages = tuple(stage[:depth] for stage, depth in zip(STAGES, depths, strict=True))
    return from_linen(_Inception(stages, width, Style(nn.relu, eps, momentum)))


def _scaled(layer: Layer, width: float) -> int:
    return max(1, round(layer.channels * width))


class _Branch(nn.Module):
    layers: Branch
    width: float
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Array:
        number = 0
        for layer in self.layers:
            if isinstance(layer, str):
                x = _POOLS[layer](x)
                continue
            maps = []
            for one in (layer,) if isinstance(layer, Layer) else layer:
                number += 1
                pad = 0 if one.stride > 1 else None
                conv = ConvNorm(_scaled(one, self.width), one.kernel, self.style, one.stride, pad, name=f"conv{number}")
                maps.append(conv(x, train))
            x = maps[0] if len(maps) == 1 else jnp.concatenate(maps, -1)
        return x


_POOLS: dict[str, Callable[[Array], Array]] = {"mean": mean_around, "max": partial(max_pool, side=3)}


class _Block(nn.Module):
    branches: Sequence[Branch]
    width: float
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Array:
        names = (f"branch{i}" for i in range(1, len(self.branches) + 1))
        maps = [_Branch(b, self.width, self.style, name=n)(x, train) for b, n in zip(self.branches, names, strict=True)]
        return jnp.concatenate(maps, -1)


class _Stem(nn.Module):
    width: float
    style: Style

    @nn.compact
    def __call__(self, x: Array, train: bool) -> list[Array]:
        """Returns the last map of each of its two resolutions."""
        layers = ((Layer(32, 3, 2), 0), (Layer(32, 3), 0), (Layer(64, 3), None), (Layer(80), None), (Layer(192, 3), 0))
        maps = []
        for i, (layer, pad) in enumerate(layers, 1):
            conv = ConvNorm(_scaled(layer, self.width), layer.kernel, self.style, layer.stride, pad, name=f"conv{i}")
            x = conv(x, train)
            if i in (3, 5):
                maps.append(x)
                x = max_pool(x, 3) if i == 3 else x
        return maps


class _Stage(nn.Module):
    blocks: Sequence[Sequence[Branch]]
    width: float
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Array:
        for i, branches in enumerate(self.blocks, 1):
            x = _Block(branches, self.width, self.style, name=f"block{i}")(x, train)
        return x


class _Inception(nn.Module):
    stages: Sequence[Sequence[Sequence[Branch]]]
    width: float
    style: Style

    @nn.compact
    def __call__(self, x, train: bool):
        maps = _Stem(self.width, self.style, name="stem")(check_images(x, 75), train)
        x = max_pool(maps[-1], 3)
        for i, blocks in enumerate(self.stages, 3):
            x = _Stage(blocks, self.width, self.style, name=f"stage{i}")(x, train)
            maps.append(x)
        return {f"stage{i}": m for i, m in enumerate(maps, 1)} | {"last": x, "pooled": jnp.mean(x, (1, 2))}

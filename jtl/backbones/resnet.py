"""Residual networks, version 1.5: where a bottleneck halves the resolution, its 3x3 convolution does it."""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jtl.backbones.layers import Conv, check_images
from jtl.backbones.norm import BatchNorm
from jtl.model import Model, from_linen

_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(
    depth: int | Sequence[int],
    *,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    bottleneck: bool | None = None,
    width: int = 64,
    zero_init: bool = False,
    momentum: float = 0.1,
) -> Model:
    """A ResNet: a stem, then stages of residual blocks `relu(x + f(x))`, each but the first halving the map.

    Features: `stage1`, ... [batch, h, w, c]; `last` is the last stage's map; `pooled` its mean over pixels,
    512 wide for 18 and 34, 2048 for 50 and up. Parameters: `stem/conv/kernel`, `stem/norm/scale`,
    `stage1/block1/conv1/kernel`, `stage1/block1/norm1/scale`, ..., `stage2/block1/shortcut/conv/kernel`.
    The numbers are those of torchvision's and transformers' networks of the same weights.

    Args:
      depth: 18, 34, 50, 101 or 152, or the number of blocks of each stage.
      stem: "imagenet" is a 7x7 convolution of stride 2 and a 3x3 max-pooling of stride 2; "cifar" is one 3x3
        convolution of stride 1, for small images.
      bottleneck: 1x1, 3x3, 1x1 convolutions in a block in place of two of 3x3; None lets the depth say so
        (50 and up), and is False where the blocks are counted.
      width: channels of the stem and of the first stage's 3x3 convolutions.
      zero_init: start each block as the identity, by a γ of 0 in its last normalisation (Goyal et al., 2017,
        arXiv 1706.02677; timm's default). Off, as in torchvision.
      momentum: share of the new batch in the running statistics.

    Raises:
      ValueError: for an unknown depth or stem.

    He et al., Deep Residual Learning for Image Recognition, 2015, arXiv 1512.03385.
    """
    if isinstance(depth, int):
        if depth not in _DEPTHS:
            raise ValueError(f"depth={depth}: give one of {sorted(_DEPTHS)}, or the number of blocks per stage")
        blocks, deep = _DEPTHS[depth], depth >= 50
    else:
        blocks, deep = tuple(depth), False
    if not blocks or any(b < 1 for b in blocks):
        raise ValueError(f"depth={blocks}: each stage has at least one block")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem={stem!r}: give 'imagenet' or 'cifar'")
    deep = deep if bottleneck is None else bottleneck
    return from_linen(_ResNet(blocks, deep, stem == "cifar", width, zero_init, momentum))


def resnet18(**options) -> Model:
    """ResNet-18, 11.2 million parameters; options as in `resnet`."""
    return resnet(18, **options)


def resnet34(**options) -> Model:
    """ResNet-34, 21.3 million parameters; options as in `resnet`."""
    return resnet(34, **options)


def resnet50(**options) -> Model:
    """ResNet-50, 23.5 million parameters; options as in `resnet`."""
    return resnet(50, **options)


def resnet101(**options) -> Model:
    """ResNet-101, 42.5 million parameters; options as in `resnet`."""
    return resnet(101, **options)


def resnet152(**options) -> Model:
    """ResNet-152, 58.1 million parameters; options as in `resnet`."""
    return resnet(152, **options)


class _Stem(nn.Module):
    width: int
    small: bool
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        kernel, stride = (3, 1) if self.small else (7, 2)
        x = Conv(self.width, kernel, stride, name="conv")(x)
        x = nn.relu(BatchNorm(self.momentum, name="norm")(x, train))
        border: Any = ((1, 1), (1, 1))  # flax takes it, but annotates str
        return x if self.small else nn.max_pool(x, (3, 3), (2, 2), border)


class _Shortcut(nn.Module):
    features: int
    stride: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(self.features, 1, self.stride, name="conv")(x)
        return BatchNorm(self.momentum, name="norm")(x, train)


class _Block(nn.Module):
    width: int
    stride: int
    bottleneck: bool
    zero_init: bool
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        out = self.width * (4 if self.bottleneck else 1)
        # (channels, kernel, stride) of each convolution.
        plain = ((self.width, 3, self.stride), (out, 3, 1))
        deep = ((self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1))
        layers = deep if self.bottleneck else plain
        y = x
        for i, (features, kernel, stride) in enumerate(layers, 1):
            y = Conv(features, kernel, stride, name=f"conv{i}")(nn.relu(y) if i > 1 else y)
            zero = self.zero_init and i == len(layers)
            gamma = nn.initializers.zeros if zero else nn.initializers.ones
            y = BatchNorm(self.momentum, scale_init=gamma, name=f"norm{i}")(y, train)
        if self.stride != 1 or x.shape[-1] != out:
            x = _Shortcut(out, self.stride, self.momentum, name="shortcut")(x, train)
        return nn.relu(x + y)


class _Stage(nn.Module):
    blocks: int
    width: int
    stride: int
    bottleneck: bool
    zero_init: bool
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        for i in range(1, self.blocks + 1):
            stride = self.stride if i == 1 else 1
            block = _Block(self.width, stride, self.bottleneck, self.zero_init, self.momentum, name=f"block{i}")
            x = block(x, train)
        return x


class _ResNet(nn.Module):
    blocks: tuple[int, ...]
    bottleneck: bool
    small: bool
    width: int
    zero_init: bool
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = _Stem(self.width, self.small, self.momentum, name="stem")(check_images(x), train)
        features = {}
        for i, blocks in enumerate(self.blocks, 1):
            width, stride = self.width * 2 ** (i - 1), 1 if i == 1 else 2
            stage = _Stage(blocks, width, stride, self.bottleneck, self.zero_init, self.momentum, name=f"stage{i}")
            x = features[f"stage{i}"] = stage(x, train)
        return features | {"last": x, "pooled": jnp.mean(x, (1, 2))}

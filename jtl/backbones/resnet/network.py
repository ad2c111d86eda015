"""Residual networks, version 1.5: the stride of a bottleneck is in its 3x3 convolution."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jtl.backbones.resnet.blocks import Kind, Stage, Stem
from jtl.checked import within
from jtl.model import Model, from_linen
from jtl.nn.layers import check_images, drop_path_rates

DEPTHS = {
    10: (1, 1, 1, 1),
    14: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""The number of blocks of each stage of the networks known by their depth."""
PLAIN = (10, 18, 34)
"""The depths without bottlenecks."""


def resnet(
    depth: int | Sequence[int],
    *,
    stem: Literal["imagenet", "deep", "tiered", "cifar"] = "imagenet",
    stem_width: int | None = None,
    bottleneck: bool | None = None,
    width: int = 64,
    groups: int = 1,
    width_per_group: int = 64,
    avg_down: bool = False,
    squeeze: bool = False,
    zero_init: bool = False,
    drop_path: float = 0.0,
    momentum: float = 0.1,
) -> Model:
    """A ResNet: a stem, then stages of residual blocks `relu(x + f(x))`, each but the first halving the map.

    Features: `stage1`, ... [batch, h, w, c]; `last` is the last stage's map; `pooled`, its mean over pixels, 512 wide
    for 10, 18 and 34, else 2048. Parameters: `stem/conv/kernel`, `stem/norm/scale` (`stem/conv1/kernel` to
    `stem/norm3/scale` of a deep stem), `stage1/block1/conv1/kernel`, `stage1/block1/norm1/scale`, ...,
    `stage2/block1/shortcut/conv/kernel`, with `squeeze` `stage1/block1/squeeze/reduce/kernel` and `.../expand/kernel`.
    The results equal those of torchvision, timm and transformers with the same weights: `resnet(50, groups=32,
    width_per_group=4)` is ResNeXt-50 32x4d, `resnet(50, width_per_group=128)` Wide ResNet-50-2, `resnet(50,
    stem="deep", avg_down=True)` ResNet-50-D.

    Args:
      depth: 10, 14, 18, 26, 34, 50, 101, 152 or 200, or the number of blocks of each stage.
      stem: "imagenet" is a 7x7 convolution of stride 2 and a 3x3 max-pooling of stride 2; "deep" has three 3x3
        convolutions in place of the 7x7 one (He et al., 2018), and so has "tiered", with a narrower first one; "cifar"
        is one 3x3 convolution of stride 1, for small images.
      stem_width: channels of a deep stem's first two convolutions, half those of its third; None for `width // 2`. A
        tiered stem's first convolution has three quarters of them.
      bottleneck: whether a block has 1x1, 3x3 and 1x1 convolutions in place of two of 3x3; None for True at all depths
        but 10, 18 and 34, and False if `depth` lists the blocks.
      width: channels of the stem and of the first stage's 3x3 convolutions.
      groups: groups of channels in a bottleneck's 3x3 convolution (Xie et al., 2016).
      width_per_group: channels of each of these groups in a stage of width 64, and in proportion in others; 128 in one
        group makes a wide ResNet (Zagoruyko and Komodakis, 2016).
      avg_down: whether shortcuts halve the map by the mean of 2x2 pixels, not by every second pixel (He et al., 2018).
      squeeze: whether each block's f ends with a squeeze-and-excitation to a sixteenth of its channels (Hu et al.,
        2017).
      zero_init: whether each block starts as the identity, with a γ of 0 in its last normalisation (Goyal et al., 2017,
        arXiv 1706.02677; timm's default). Off, as in torchvision.
      drop_path: probability of dropping the last block's f for an example in training; it rises linearly from 0 at the
        first block (Huang et al., 2016, arXiv 1603.09382), as in timm.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for an unknown depth or stem, a `stem_width` below 1 or for a stem that is not deep, groups outside
        bottlenecks or without channels, or a probability outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.resnet([1, 1], stem="cifar", width=8), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 16, 16, 16), (2, 16))

    He et al., Deep Residual Learning for Image Recognition, 2015, arXiv 1512.03385. Xie et al., Aggregated Residual
    Transformations for Deep Neural Networks, 2016, arXiv 1611.05431. Zagoruyko and Komodakis, Wide Residual Networks,
    2016, arXiv 1605.07146. He et al., Bag of Tricks for Image Classification with Convolutional Neural Networks, 2018,
    arXiv 1812.01187. Hu et al., Squeeze-and-Excitation Networks, 2017, arXiv 1709.01507.
    """
    if isinstance(depth, int):
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth}: give one of {sorted(DEPTHS)}, or the number of blocks per stage")
        blocks, deep = DEPTHS[depth], depth not in PLAIN
    else:
        blocks, deep = tuple(depth), False
    if not blocks or any(b < 1 for b in blocks):
        raise ValueError(f"depth={blocks}: each stage has at least one block")
    if stem not in ("imagenet", "deep", "tiered", "cifar"):
        raise ValueError(f"stem={stem!r}: give 'imagenet', 'deep', 'tiered' or 'cifar'")
    three = stem in ("deep", "tiered")
    if stem_width is not None and not three:
        raise ValueError(f"stem_width={stem_width} with stem={stem!r}: only a deep stem has one")
    second = width // 2 if stem_width is None else stem_width
    first = second // 4 * 3 if stem == "tiered" else second
    if three and first < 1:
        raise ValueError(f"stem_width={second}: give at least {4 if stem == 'tiered' else 1}")
    deep = deep if bottleneck is None else bottleneck
    kind = Kind(deep, groups, width_per_group, avg_down, zero_init, momentum, squeeze)
    if not deep and (groups, width_per_group) != (1, 64):
        raise ValueError(
            f"groups={groups}, width_per_group={width_per_group}: only blocks with bottlenecks have groups"
        )
    if groups < 1 or kind.inner(width) < 1:
        raise ValueError(f"groups={groups}, width_per_group={width_per_group}: no channels at width={width}")
    within("[0, 1)", drop_path=drop_path)
    return from_linen(_ResNet(blocks, width, stem == "cifar", (first, second) if three else None, kind, drop_path))


def resnet18(**options) -> Model:
    """ResNet-18, 11.2 million parameters; options as in `resnet`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.resnet18(), head=jtl.heads.linear(10))
    """
    return resnet(18, **options)


def resnet34(**options) -> Model:
    """ResNet-34, 21.3 million parameters; options as in `resnet`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.resnet34(), head=jtl.heads.linear(10))
    """
    return resnet(34, **options)


def resnet50(**options) -> Model:
    """ResNet-50, 23.5 million parameters; options as in `resnet`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.resnet50(), head=jtl.heads.linear(10))
    """
    return resnet(50, **options)


def resnet101(**options) -> Model:
    """ResNet-101, 42.5 million parameters; options as in `resnet`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.resnet101(), head=jtl.heads.linear(10))
    """
    return resnet(101, **options)


def resnet152(**options) -> Model:
    """ResNet-152, 58.1 million parameters; options as in `resnet`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.resnet152(), head=jtl.heads.linear(10))
    """
    return resnet(152, **options)


class _ResNet(nn.Module):
    blocks: tuple[int, ...]
    width: int
    small: bool
    deep: tuple[int, int] | None
    kind: Kind
    drop_path: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = Stem(self.width, self.small, self.deep, self.kind.momentum, name="stem")(check_images(x), train)
        features = {}
        for i, rates in enumerate(drop_path_rates(self.drop_path, self.blocks), 1):
            width, stride = self.width * 2 ** (i - 1), 1 if i == 1 else 2
            x = features[f"stage{i}"] = Stage(rates, width, stride, self.kind, name=f"stage{i}")(x, train)
        return features | {"last": x, "pooled": jnp.mean(x, (1, 2))}

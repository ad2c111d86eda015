"""EfficientNetV2: an EfficientNet whose first stages have plain convolutions in place of depthwise ones."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jtl.checked import within
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import ConvNorm, FusedResidual, InvertedResidual, Padding, Squeeze, Style, by_resolution
from jtl.nn.layers import check_images

KINDS = ("conv", "fused", "inverted")


class V2Stage(NamedTuple):
    """The dimensions of a stage of EfficientNetV2.

    Args:
      kind: kind of its blocks: one 3x3 convolution ("conv"), one that widens before a 1x1 projection ("fused"), or an
        inverted residual with squeeze-and-excitation ("inverted").
      expansion: channels within a block, in multiples of those of its input; 1 if the kind is "conv".
      channels: channels of the output.
      repeats: number of blocks.
      stride: stride of the first block.
    """

    kind: Literal["conv", "fused", "inverted"]
    expansion: int
    channels: int
    repeats: int
    stride: int


class EfficientNetV2Size(NamedTuple):
    """The dimensions of an EfficientNetV2: channels of the stem, the stages, channels of the last convolution."""

    stem: int
    stages: tuple[V2Stage, ...]
    top: int = 1280


def _size(
    stem: int, channels: str, repeats: str, top: int = 1280, first: Literal["conv", "fused"] = "conv"
) -> EfficientNetV2Size:
    """A published size; all of them have kinds, expansions and strides in common."""
    late: tuple[Literal["inverted"], ...] = ("inverted",) * 4
    columns = zip(
        (first, "fused", "fused", *late),
        (1, 4, 4, 4, 6, 6, 6),
        map(int, channels.split()),
        map(int, repeats.split()),
        (1, 2, 2, 2, 1, 2, 1),
        strict=False,  # some sizes have six stages
    )
    return EfficientNetV2Size(stem, tuple(V2Stage(*column) for column in columns), top)


SIZES = {
    "s": _size(24, "24 48 64 128 160 256", "2 4 4 6 9 15"),
    "m": _size(24, "24 48 80 160 176 304 512", "3 5 5 7 14 18 5"),
    "l": _size(32, "32 64 96 192 224 384 640", "4 7 7 10 19 25 7"),
    "xl": _size(32, "32 64 96 192 256 512 640", "4 8 8 16 24 32 8"),
    "b0": _size(32, "16 32 48 96 112 192", "1 2 2 3 5 8"),
    "b1": _size(32, "16 32 48 96 112 192", "2 3 3 4 6 9"),
    "b2": _size(32, "16 32 56 104 120 208", "2 3 3 4 6 10", 1408),
    "b3": _size(40, "16 40 56 112 136 232", "2 3 3 5 7 12", 1536),
    "rw_t": _size(24, "24 40 48 104 128 208", "2 4 4 6 9 14", 1024),
    "rw_s": _size(24, "24 48 64 128 160 272", "2 4 4 6 9 15", 1792, "fused"),
    "rw_m": _size(32, "32 56 80 152 192 328", "3 5 5 8 15 24", 2152, "fused"),
}
"""The paper's sizes (its table 4 has "s"), and timm's own, "rw_"."""


def efficientnet_v2(
    size: Literal["s", "m", "l", "xl", "b0", "b1", "b2", "b3", "rw_t", "rw_s", "rw_m"] | EfficientNetV2Size,
    *,
    padding: Literal["torch", "same"] = "torch",
    eps: float = 1e-3,
    drop_path: float = 0.0,
    momentum: float = 0.1,
) -> Model:
    """An EfficientNetV2: a stem, blocks `x + project(fused(x))`, then blocks of EfficientNet, and a 1x1 convolution.

    `fused` is a 3x3 convolution to more channels, in place of an expansion and a depthwise convolution. A block of
    the kind "conv" has no projection.

    Features: `stage1` to `stage5` [batch, h, w, c], the last map of each resolution from 1/2 to 1/32; `last` after the
    1x1 convolution; `pooled`, its mean over pixels, 1280 wide for "s" to "xl". Parameters: `stem/conv/kernel`,
    `stem/norm/scale`, `block1/fused/conv/kernel`, `block3/project/norm/scale`, `block11/expand/conv/kernel`,
    `block11/depthwise/conv/kernel`, `block11/squeeze/reduce/kernel`, ..., `top/conv/kernel`.

    Args:
      size: the paper's "s" to "xl" and "b0" to "b3", timm's own "rw_t" to "rw_m", or custom dimensions.
      padding: how strided convolutions pad: alike on each side ("torch": torchvision and timm), or as TensorFlow does
        ("same": timm's `tf_` weights), which depends on the size of the map.
      eps: epsilon of the normalisations: 1e-3 in torchvision and in timm's `tf_` weights, 1e-5 in timm's others.
      drop_path: scale of the probabilities of dropping a block's branch for an example in training: the n-th of N
        blocks has `drop_path (n − 1) / N`, as in the published code and in timm.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for an unknown size, padding or kind of block, or a probability outside [0, 1).

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.efficientnet_v2("s", drop_path=0.1), head=jtl.heads.linear(10))

    Tan and Le, EfficientNetV2: Smaller Models and Faster Training, 2021, arXiv 2104.00298.
    """
    if isinstance(size, str) and size not in SIZES:
        raise ValueError(f"size={size!r}: give one of {list(SIZES)}, or an EfficientNetV2Size")
    measures = SIZES[size] if isinstance(size, str) else size
    if not measures.stages or any(stage.repeats < 1 for stage in measures.stages):
        raise ValueError(f"size={size!r}: each stage has at least one block")
    for stage in measures.stages:
        if stage.kind not in KINDS:
            raise ValueError(f"kind={stage.kind!r}: give one of {KINDS}")
        if stage.kind == "conv" and stage.expansion != 1:
            raise ValueError(f"expansion={stage.expansion}: it is 1 in blocks of the kind 'conv', which do not project")
    if padding not in ("torch", "same"):
        raise ValueError(f"padding={padding!r}: give 'torch' or 'same'")
    within("[0, 1)", drop_path=drop_path)
    pad = "SAME" if padding == "same" else None
    return from_linen(_EfficientNetV2(measures, pad, Style(nn.silu, eps, momentum), drop_path))


class _EfficientNetV2(nn.Module):
    size: EfficientNetV2Size
    padding: Padding
    style: Style
    drop_path: float

    @nn.compact
    def __call__(self, x, train: bool):
        stem, stages, top = self.size
        x = ConvNorm(stem, 3, self.style, 2, self.padding, name="stem")(check_images(x), train)
        blocks, features, count = [], stem, sum(stage.repeats for stage in stages)
        for stage in stages:
            for i in range(stage.repeats):
                stride, rate = stage.stride if i == 0 else 1, self.drop_path * len(blocks) / count
                inner, name = features * stage.expansion, f"block{len(blocks) + 1}"
                if stage.kind == "inverted":
                    squeeze = Squeeze(max(1, features // 4), nn.silu, nn.sigmoid)
                    measures = inner, stage.channels, 3, stride, self.style, squeeze, self.padding
                    block = InvertedResidual(*measures, drop_path=rate, name=name)
                else:
                    measures = stage.channels, stride, self.style, self.padding, rate
                    block = FusedResidual(inner if stage.kind == "fused" else None, *measures, name=name)
                blocks.append(block)
                features = stage.channels
        x, found = by_resolution(x, blocks, train)
        x = ConvNorm(top, 1, self.style, name="top")(x, train)
        return found | {"last": x, "pooled": jnp.mean(x, (1, 2))}

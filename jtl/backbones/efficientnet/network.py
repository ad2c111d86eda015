"""EfficientNet: inverted residual blocks with squeeze-and-excitation, scaled in width and depth together."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jtl.checked import positive, within
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import ConvNorm, InvertedResidual, Padding, Squeeze, Style, by_resolution, rounded
from jtl.nn.layers import check_images


class MBStage(NamedTuple):
    """The dimensions of a stage of EfficientNet, before scaling.

    Args:
      expansion: channels within a block, in multiples of those of its input.
      channels: channels of the output.
      repeats: number of blocks.
      stride: stride of the first block.
      kernel: side of the depthwise convolutions.
    """

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    MBStage(1, 16, 1, 1, 3),
    MBStage(6, 24, 2, 2, 3),
    MBStage(6, 40, 2, 2, 5),
    MBStage(6, 80, 3, 2, 3),
    MBStage(6, 112, 3, 1, 5),
    MBStage(6, 192, 4, 2, 5),
    MBStage(6, 320, 1, 1, 3),
)
"""The stages of B0, the paper's table 1."""

SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
"""Factors on channels and on blocks."""


def efficientnet(
    size: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] | tuple[float, float],
    *,
    stages: Sequence[MBStage] = STAGES,
    padding: Literal["torch", "same"] | Sequence[int] = "torch",
    squeeze: float = 0.25,
    eps: float = 1e-5,
    drop_path: float = 0.0,
    momentum: float = 0.1,
) -> Model:
    """An EfficientNet: a stem, blocks `x + project(squeeze(depthwise(expand(x))))` with SiLU, and a 1x1 convolution.

    Features: `stage1` to `stage5` [batch, h, w, c], the last map of each resolution from 1/2 to 1/32; `last` after the
    1x1 convolution; `pooled`, its mean over pixels, 1280 wide for "b0". Parameters: `stem/conv/kernel`,
    `stem/norm/scale`, `block1/depthwise/conv/kernel`, `block1/squeeze/reduce/kernel`, `block1/squeeze/expand/kernel`,
    `block1/project/norm/scale`, `block2/expand/conv/kernel`, ..., `top/conv/kernel`.

    Args:
      size: "b0" to "b7", or factors for the channels (rounded to multiples of 8) and for the blocks of each stage.
      stages: the stages before scaling.
      padding: how strided convolutions pad: alike on each side ("torch": timm and torchvision), or as TensorFlow does
        ("same": timm's `tf_` weights), which depends on the size of the map. transformers fixes TensorFlow's padding
        for the image size of the weights: one pixel less at the top and left, except in the blocks whose numbers, from
        0, are given here.
      squeeze: width of a squeeze-and-excitation as a share of the channels of the block's input.
      eps: epsilon of the normalisations: 1e-3 in transformers, in timm's `tf_` weights and in torchvision's from "b5"
        on, else 1e-5.
      drop_path: scale of the probabilities of dropping a block's branch for an example in training: the n-th of N
        blocks has `drop_path (n − 1) / N`, as in the published code and in timm.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for an unknown size or padding, or a probability outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.efficientnet((0.25, 0.25)), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 1, 1, 320), (2, 320))

    Tan and Le, EfficientNet, 2019, arXiv 1905.11946.
    """
    if isinstance(size, str) and size not in SCALES:
        raise ValueError(f"size={size!r}: give one of {list(SCALES)}, or factors on channels and blocks")
    width, depth = SCALES[size] if isinstance(size, str) else size
    positive(width=width, depth=depth)
    if isinstance(padding, str) and padding not in ("torch", "same"):
        raise ValueError(f"padding={padding!r}: give 'torch', 'same' or numbers of blocks")
    within("[0, 1)", drop_path=drop_path)
    pads = padding if isinstance(padding, str) else tuple(padding)
    scaled = tuple(
        stage._replace(channels=rounded(stage.channels * width), repeats=math.ceil(stage.repeats * depth))
        for stage in stages
    )
    style = Style(nn.silu, eps, momentum)
    return from_linen(
        _EfficientNet(scaled, rounded(32 * width), rounded(1280 * width), pads, squeeze, style, drop_path)
    )


class _EfficientNet(nn.Module):
    stages: tuple[MBStage, ...]
    stem: int
    top: int
    padding: Literal["torch", "same"] | tuple[int, ...]
    squeeze: float
    style: Style
    drop_path: float

    def _pad(self, kernel: int, block: int) -> Padding:
        if isinstance(self.padding, str):
            return "SAME" if self.padding == "same" else None
        return None if block in self.padding else (kernel // 2 - 1, kernel // 2)

    @nn.compact
    def __call__(self, x, train: bool):
        x = ConvNorm(self.stem, 3, self.style, 2, self._pad(3, -1), name="stem")(check_images(x), train)
        blocks, features, count = [], self.stem, sum(stage.repeats for stage in self.stages)
        for stage in self.stages:
            for i in range(stage.repeats):
                number, stride = len(blocks), stage.stride if i == 0 else 1
                hidden = max(1, int(features * self.squeeze))
                block = InvertedResidual(
                    features * stage.expansion,
                    stage.channels,
                    stage.kernel,
                    stride,
                    self.style,
                    Squeeze(hidden, nn.silu, nn.sigmoid),
                    self._pad(stage.kernel, number) if stride > 1 else None,
                    residual=i > 0,  # the first block of a stage changes the channels
                    drop_path=self.drop_path * number / count,
                    name=f"block{number + 1}",
                )
                blocks.append(block)
                features = stage.channels
        x, found = by_resolution(x, blocks, train)
        x = ConvNorm(self.top, 1, self.style, name="top")(x, train)
        return found | {"last": x, "pooled": jnp.mean(x, (1, 2))}

"""MobileNetV3: inverted residual blocks found by search, with hard-swish."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jtl.checked import positive, within
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import ConvNorm, HiddenLayers, InvertedResidual, Squeeze, Style, by_resolution, rounded
from jtl.nn.layers import check_images


class Row(NamedTuple):
    """One block: a row of the paper's tables 1 and 2.

    Args:
      kernel: side of the depthwise convolution.
      inner: channels within the block.
      channels: channels of the output.
      squeeze: whether the block has a squeeze-and-excitation.
      hard_swish: whether hard-swish takes the place of ReLU.
      stride: stride of the depthwise convolution.
    """

    kernel: int
    inner: int
    channels: int
    squeeze: bool
    hard_swish: bool
    stride: int


ROWS = {
    "large": (
        Row(3, 16, 16, False, False, 1),
        Row(3, 64, 24, False, False, 2),
        Row(3, 72, 24, False, False, 1),
        Row(5, 72, 40, True, False, 2),
        Row(5, 120, 40, True, False, 1),
        Row(5, 120, 40, True, False, 1),
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 480, 112, True, True, 1),
        Row(3, 672, 112, True, True, 1),
        Row(5, 672, 160, True, True, 2),
        Row(5, 960, 160, True, True, 1),
        Row(5, 960, 160, True, True, 1),
    ),
    "small": (
        Row(3, 16, 16, True, False, 2),
        Row(3, 72, 24, False, False, 2),
        Row(3, 88, 24, False, False, 1),
        Row(5, 96, 40, True, True, 2),
        Row(5, 240, 40, True, True, 1),
        Row(5, 240, 40, True, True, 1),
        Row(5, 120, 48, True, True, 1),
        Row(5, 144, 48, True, True, 1),
        Row(5, 288, 96, True, True, 2),
        Row(5, 576, 96, True, True, 1),
        Row(5, 576, 96, True, True, 1),
    ),
}
_STEM = 16
_HIDDEN = {"large": 1280, "small": 1024}


def mobilenet_v3(
    size: Literal["large", "small"] | Sequence[Row],
    width: float = 1.0,
    *,
    hidden: int | None = None,
    scaling: Literal["torchvision", "timm"] = "torchvision",
    same_padding: bool = False,
    eps: float = 1e-3,
    drop_path: float = 0.0,
    momentum: float = 0.01,
) -> Model:
    """A MobileNetV3: a stem, blocks `x + project(squeeze(depthwise(expand(x))))`, a 1x1 convolution, a dense layer.

    Features: `stage1` to `stage5` [batch, h, w, c], the last map of each resolution from 1/2 to 1/32; `last` after the
    1x1 convolution; `pooled`, the output of the dense layer on its mean over pixels, 1280 wide for "large" and 1024 for
    "small". Parameters: `stem/conv/kernel`, `stem/norm/scale`, `block1/depthwise/conv/kernel`,
    `block2/expand/conv/kernel`, `block4/squeeze/reduce/kernel`, `block4/project/norm/scale`, ..., `top/conv/kernel`,
    `dense/hidden1/kernel`.

    Args:
      size: "large", "small", or the rows of a custom table.
      width: factor for the blocks' channels, which are rounded to multiples of 8.
      hidden: width of the dense layer; None for that of the size ("large" for a custom table).
      scaling: what `width` does to the channels within a block: they are multiplied by it ("torchvision"), or keep
        their ratio to the block's input ("timm", whose stem stays 16 wide below a width of 0.75).
      same_padding: pad as TensorFlow does, less at the top and left, not alike on each side. timm's `tf_` weights were
        trained in this way.
      eps: epsilon of the normalisations: 1e-3 in torchvision and timm's `tf_` weights, 1e-5 in timm's others.
      drop_path: scale of the probabilities of dropping a block's branch for an example in training: the n-th of N
        blocks has `drop_path (n − 1) / (N + 1)`, as in timm, which counts the last convolution as a block.
      momentum: weight of the new batch in the running statistics: 0.01 in torchvision.

    Raises:
      ValueError: for an unknown size or scaling, a width that is not positive, or a probability outside [0, 1).

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mobilenet_v3("small", drop_path=0.1), head=jtl.heads.linear(10))

    Howard et al., Searching for MobileNetV3, 2019, arXiv 1905.02244.
    """
    if isinstance(size, str) and size not in ROWS:
        raise ValueError(f"size={size!r}: give one of {list(ROWS)}, or rows")
    positive(width=width)
    within("[0, 1)", drop_path=drop_path)
    if scaling not in ("torchvision", "timm"):
        raise ValueError(f"scaling={scaling!r}: give 'torchvision' or 'timm'")
    name = size if isinstance(size, str) else "large"
    hidden = hidden or _HIDDEN[name]
    stem, rows = _scaled(ROWS[size] if isinstance(size, str) else size, width, scaling)
    style = Style(nn.hard_swish, eps, momentum)
    return from_linen(_MobileNetV3(stem, rows, hidden, same_padding, style, drop_path))


def _scaled(rows: Sequence[Row], width: float, scaling: str) -> tuple[int, tuple[Row, ...]]:
    """Channels of the stem, and the rows of the network."""
    if scaling == "torchvision":
        scaled = [
            row._replace(inner=rounded(row.inner * width), channels=rounded(row.channels * width)) for row in rows
        ]
        return rounded(_STEM * width), tuple(scaled)
    stem = rounded(_STEM * width) if width >= 0.75 else _STEM
    before, now, found = _STEM, stem, []
    for row in rows:
        found.append(row._replace(inner=rounded(now * row.inner / before), channels=rounded(row.channels * width)))
        before, now = row.channels, found[-1].channels
    return stem, tuple(found)


class _MobileNetV3(nn.Module):
    stem: int
    rows: tuple[Row, ...]
    hidden: int
    same_padding: bool
    style: Style
    drop_path: float

    @nn.compact
    def __call__(self, x, train: bool):
        pad = "SAME" if self.same_padding else None
        x = ConvNorm(self.stem, 3, self.style, 2, pad, name="stem")(check_images(x), train)
        blocks = []
        for i, row in enumerate(self.rows, 1):
            squeeze = Squeeze(rounded(row.inner // 4), nn.relu, nn.hard_sigmoid) if row.squeeze else None
            style = self.style if row.hard_swish else self.style._replace(activation=nn.relu)
            measures = row.inner, row.channels, row.kernel, row.stride
            path = self.drop_path * (i - 1) / (len(self.rows) + 1)
            blocks.append(InvertedResidual(*measures, style, squeeze, pad, drop_path=path, name=f"block{i}"))
        x, found = by_resolution(x, blocks, train)
        x = ConvNorm(6 * x.shape[-1], 1, self.style, name="top")(x, train)
        pooled = HiddenLayers((self.hidden,), nn.hard_swish, name="dense")(jnp.mean(x, (1, 2)), train)
        return found | {"last": x, "pooled": pooled}

"""Blocks that several convolutional networks share."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.nn.batch_norm import BatchNorm
from jtl.nn.layers import Conv, DropPath

Padding = int | tuple[int, int] | Literal["SAME"] | None
"""As for `layers.Conv`."""


class Style(NamedTuple):
    """The options that the layers of a network share.

    Args:
      activation: activation after a normalisation.
      eps: epsilon of the normalisations.
      momentum: weight of the new batch in the running statistics.
    """

    activation: Callable[[Array], Array]
    eps: float = 1e-5
    momentum: float = 0.1


def rounded(count: float, unit: int = 8) -> int:
    """Rounds `count` channels to a multiple of `unit`: at least one unit, and at most a tenth below `count`."""
    near = max(unit, int(count + unit / 2) // unit * unit)
    return near + unit if near < 0.9 * count else near


class ConvNorm(nn.Module):
    """A convolution, its normalisation and, usually, an activation."""

    features: int
    kernel: int | tuple[int, int]
    style: Style
    stride: int = 1
    padding: Padding = None
    depthwise: bool = False
    active: bool = True
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], train: bool) -> Array:
        """Maps one feature map to another."""
        x = Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            self.bias,
            depthwise=self.depthwise,
            name="conv",
        )(x)
        x = BatchNorm(self.style.momentum, self.style.eps, name="norm")(x, train)
        return self.style.activation(x) if self.active else x


class Squeeze(NamedTuple):
    """The options of a squeeze-and-excitation.

    Args:
      hidden: width between its two layers.
      activation: activation between them.
      gate: activation after them, with values from 0 to 1.
    """

    hidden: int
    activation: Callable[[Array], Array]
    gate: Callable[[Array], Array]


class SqueezeExcite(nn.Module):
    """`x · gate(W₂ a(W₁ mean(x)))`: each channel is scaled by a function of all channels' means.

    Hu et al., Squeeze-and-Excitation Networks, 2017, arXiv 1709.01507.
    """

    squeeze: Squeeze

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        """Scales the map; parameters `reduce/kernel` [channels, hidden] and `expand/kernel` [hidden, channels]."""
        hidden, activation, gate = self.squeeze
        y = activation(nn.Dense(hidden, name="reduce")(jnp.mean(x, (1, 2))))
        return x * gate(nn.Dense(x.shape[-1], name="expand")(y)).reshape(x.shape[0], 1, 1, -1)


class InvertedResidual(nn.Module):
    """`x + project(squeeze(depthwise(expand(x))))`: an inverted residual block.

    Args:
      inner: channels within the block; there is no expansion if x has as many.
      features: channels of the output.
      kernel: side of the depthwise convolution.
      stride: stride of the depthwise convolution.
      style: options of its layers.
      squeeze: a squeeze-and-excitation after the depthwise convolution, or None.
      padding: padding of the depthwise convolution.
      residual: whether x is added; None adds it if the shapes agree, that is at stride 1 with equal channels.
      drop_path: probability of dropping the branch for an example, in training.
    """

    inner: int
    features: int
    kernel: int
    stride: int
    style: Style
    squeeze: Squeeze | None = None
    padding: Padding = None
    residual: bool | None = None
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], train: bool) -> Array:
        """Maps one feature map to another."""
        y = x
        if self.inner != x.shape[-1]:
            y = ConvNorm(self.inner, 1, self.style, name="expand")(y, train)
        depthwise = ConvNorm(
            self.inner, self.kernel, self.style, self.stride, self.padding, depthwise=True, name="depthwise"
        )
        y = depthwise(y, train)
        if self.squeeze is not None:
            y = SqueezeExcite(self.squeeze, name="squeeze")(y)
        y = ConvNorm(self.features, 1, self.style, active=False, name="project")(y, train)
        fits = self.stride == 1 and self.features == x.shape[-1]
        if not (fits if self.residual is None else self.residual):
            return y
        return x + DropPath(self.drop_path)(y, train)


class FusedResidual(nn.Module):
    """`x + project(fused(x))`: a 3x3 convolution replaces an inverted residual's expansion and depthwise convolution.

    x is added if the shapes agree, that is at stride 1 with equal channels.

    Args:
      inner: channels within the block; None for a block without a projection.
      features: channels of the output.
      stride: stride of the 3x3 convolution.
      style: options of its layers.
      padding: padding of the 3x3 convolution.
      drop_path: probability of dropping the branch for an example, in training.
    """

    inner: int | None
    features: int
    stride: int
    style: Style
    padding: Padding = None
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"], train: bool) -> Array:
        """Maps one feature map to another."""
        y = ConvNorm(self.inner or self.features, 3, self.style, self.stride, self.padding, name="fused")(x, train)
        if self.inner is not None:
            y = ConvNorm(self.features, 1, self.style, active=False, name="project")(y, train)
        if self.stride > 1 or self.features != x.shape[-1]:
            return y
        return x + DropPath(self.drop_path)(y, train)


def by_resolution(
    x: Float[Array, "batch height width channels"],
    blocks: Sequence[InvertedResidual | FusedResidual],
    train: bool,
) -> tuple[Array, dict[str, Array]]:
    """Runs blocks; `stage1`, `stage2`, ... are the last map of each resolution, including that of x."""
    maps = []
    for block in blocks:
        if block.stride > 1:
            maps.append(x)
        x = block(x, train)
    return x, {f"stage{i}": m for i, m in enumerate([*maps, x], 1)}


class HiddenLayers(nn.Module):
    """Dense layers with an activation, `hidden1`, `hidden2`, ..., for use before a classifier.

    Args:
      widths: widths of the layers.
      activation: activation after each layer.
      dropout: probability of dropping a value, in training.
      before: whether to drop the inputs of a layer, in place of its outputs.
    """

    widths: Sequence[int]
    activation: Callable[[Array], Array]
    dropout: float = 0.0
    before: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"], train: bool) -> Array:
        """Maps vectors to vectors."""
        for i, width in enumerate(self.widths, 1):
            drop = nn.Dropout(self.dropout, deterministic=not train)
            x = drop(x) if self.before else x
            x = self.activation(nn.Dense(width, name=f"hidden{i}")(x))
            x = x if self.before else drop(x)
        return x

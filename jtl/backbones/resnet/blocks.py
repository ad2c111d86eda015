"""The building blocks of ResNets, ResNeXts and wide ResNets."""

from typing import NamedTuple

import flax.linen as nn

from jtl.nn.batch_norm import BatchNorm
from jtl.nn.conv_blocks import Squeeze, SqueezeExcite
from jtl.nn.layers import Conv, DropPath
from jtl.nn.pooling import max_pool, mean_pool
from jtl.ops import computed_once


class Kind(NamedTuple):
    """The options that all blocks of a network share; see `resnet`."""

    bottleneck: bool
    groups: int
    width_per_group: int
    avg_down: bool
    zero_init: bool
    momentum: float
    squeeze: bool

    def inner(self, width: int) -> int:
        """Channels of all but the last convolution of a block of this width."""
        return int(width * self.width_per_group / 64) * self.groups


class Stem(nn.Module):
    """A 7x7 convolution, or 3x3 for small images; `deep` holds the widths of the first two of three."""

    width: int
    small: bool
    deep: tuple[int, int] | None
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        """Maps images to a quarter of their size, or to their own size in the stem for small images."""
        if self.deep is None:
            kernel, stride = (3, 1) if self.small else (7, 2)
            layers = [("", self.width, kernel, stride)]
        else:
            first, second = self.deep
            layers = [("1", first, 3, 2), ("2", second, 3, 1), ("3", 2 * second, 3, 1)]
        for number, features, kernel, stride in layers:
            x = Conv(features, kernel, stride, name=f"conv{number}")(x)
            x = nn.relu(BatchNorm(self.momentum, name=f"norm{number}")(x, train))
        return x if self.small else max_pool(x, 3, border=1)


class Shortcut(nn.Module):
    """A 1x1 convolution, if a block changes the shape, of every second pixel or of the means of 2x2."""

    features: int
    stride: int
    kind: Kind

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the input in the shape of the branch that is added to it."""
        stride = self.stride
        if self.kind.avg_down and stride > 1:
            x, stride = mean_pool(x), 1
        x = Conv(self.features, 1, stride, name="conv")(x)
        return BatchNorm(self.kind.momentum, name="norm")(x, train)


class Block(nn.Module):
    """`relu(x + f(x))`, f of two or three convolutions and, with `squeeze`, a squeeze-and-excitation.

    In training f is dropped for an example with probability `drop_path`.
    """

    width: int
    stride: int
    kind: Kind
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool):
        """Maps [batch, h, w, c] to [batch, h / stride, w / stride, out], rounded up."""
        kind, inner = self.kind, self.kind.inner(self.width)
        out = self.width * (4 if kind.bottleneck else 1)
        # (channels, kernel, stride, groups) of each convolution.
        plain = ((inner, 3, self.stride, 1), (out, 3, 1, 1))
        deep = ((inner, 1, 1, 1), (inner, 3, self.stride, kind.groups), (out, 1, 1, 1))
        layers = deep if kind.bottleneck else plain
        y = x
        for i, (features, kernel, stride, groups) in enumerate(layers, 1):
            y = Conv(features, kernel, stride, groups=groups, name=f"conv{i}")(nn.relu(y) if i > 1 else y)
            zero = kind.zero_init and i == len(layers)
            gamma = nn.initializers.zeros if zero else nn.initializers.ones
            y = BatchNorm(kind.momentum, scale_init=gamma, name=f"norm{i}")(y, train)
        if kind.squeeze:  # to a sixteenth of its channels, in multiples of 8
            hidden = max(8, int(out / 16 + 4) // 8 * 8)
            y = SqueezeExcite(Squeeze(hidden, nn.relu, nn.sigmoid), name="squeeze")(y)
        y = DropPath(self.drop_path)(y, train)
        if self.stride != 1 or x.shape[-1] != out:
            x = Shortcut(out, self.stride, kind, name="shortcut")(x, train)
        return computed_once(nn.relu(x + y))


class Stage(nn.Module):
    """Blocks, one for each probability of dropping a branch; the first may halve the map."""

    drop_paths: tuple[float, ...]
    width: int
    stride: int
    kind: Kind

    @nn.compact
    def __call__(self, x, train: bool):
        """As for a block."""
        for i, drop_path in enumerate(self.drop_paths, 1):
            x = Block(self.width, self.stride if i == 1 else 1, self.kind, drop_path, name=f"block{i}")(x, train)
        return x

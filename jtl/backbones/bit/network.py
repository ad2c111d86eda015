"""Big Transfer: pre-activation ResNets with group normalisation, which is independent of the batch."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.checked import whole, within
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import rounded
from jtl.nn.layers import Conv, DropPath, check_images, drop_path_rates
from jtl.nn.pooling import max_pool
from jtl.ops import computed_once

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STANDARD = 1e-8  # ε added to the kernels' variance


def bit(
    depth: int | Sequence[tuple[int, int]],
    factor: int = 1,
    *,
    stem: int = 64,
    groups: int = 32,
    drop_path: float = 0.0,
) -> Model:
    """A BiT ResNet: blocks `x + conv3(conv2(conv1(x)))`, a group normalisation and a ReLU before each convolution.

    Nothing depends on the batch: normalisations are over groups of channels of one image, and kernels are standardised
    when they are used, to mean 0 and variance 1 for each output channel.

    Features: `stage1`, ... [batch, h, w, c]; `last` is the last stage's map, normalised; `pooled`, its mean over
    pixels, `2048 factor` wide for the published depths. Parameters: `stem/conv/kernel`, `stage1/block1/norm1/scale`,
    `stage1/block1/conv1/kernel`, ..., `stage1/block1/shortcut/conv/kernel`, ..., `norm/scale`.

    Args:
      depth: 50, 101 or 152, or (blocks, channels) of each stage.
      factor: multiplies all channels.
      stem: channels of the first convolution, before the factor.
      groups: number of groups in each normalisation; divides its channels.
      drop_path: probability of dropping the last block's branch for an example in training; it rises linearly from 0 at
        the first block.

    Raises:
      ValueError: for an unknown depth, channels that the groups do not divide, or a probability outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.bit([(1, 64)], stem=32, groups=8), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 8, 8, 64), (2, 64))

    Kolesnikov et al., Big Transfer: General Visual Representation Learning, 2019, arXiv 1912.11370; Qiao et al.,
    Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, 2019, arXiv 1903.10520.
    """
    if isinstance(depth, int):
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth}: give one of {sorted(DEPTHS)}, or (blocks, channels) of each stage")
        depth = [(blocks, 256 << i) for i, blocks in enumerate(DEPTHS[depth])]
    if not depth or any(blocks < 1 or width < 1 for blocks, width in depth):
        raise ValueError(f"depth={depth}: each stage has at least one block and one channel")
    whole(1, factor=factor, stem=stem, groups=groups)
    within("[0, 1)", drop_path=drop_path)
    stages = tuple((blocks, rounded(width * factor)) for blocks, width in depth)
    first = rounded(stem * factor)
    for width in (first, *(width for _, width in stages), *(rounded(width / 4) for _, width in stages)):
        if width % groups:
            raise ValueError(f"a map of {width} channels cannot be cut into groups={groups} of the same size")
    return from_linen(_Bit(stages, first, groups, drop_path))


def _conv(features: int, kernel: int, stride: int = 1, name: str = "conv") -> Conv:
    return Conv(features, kernel, stride, standardise=_STANDARD, name=name)


def _norm(groups: int, name: str = "norm") -> nn.GroupNorm:
    # flax's fast variance, E[x²] − E[x]², loses its digits if the mean is large.
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, name=name)


class _Stem(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = _conv(self.width, 7, 2)(x)
        # Zeros around the map, as in the published training, in place of the lowest number.
        return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3)


class _Shortcut(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        return _conv(self.width, 1, self.stride)(x)


class _Block(nn.Module):
    width: int
    stride: int
    first: bool
    groups: int
    drop_path: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Array:
        inner = rounded(self.width / 4)
        y = nn.relu(_norm(self.groups, "norm1")(x))
        x = _Shortcut(self.width, self.stride, name="shortcut")(y) if self.first else x
        y = _conv(inner, 1, name="conv1")(y)
        y = _conv(inner, 3, self.stride, name="conv2")(nn.relu(_norm(self.groups, "norm2")(y)))
        y = _conv(self.width, 1, name="conv3")(nn.relu(_norm(self.groups, "norm3")(y)))
        return computed_once(x + DropPath(self.drop_path)(y, train))


class _Stage(nn.Module):
    width: int
    stride: int
    groups: int
    rates: tuple[float, ...]

    @nn.compact
    def __call__(self, x, train: bool):
        for i, rate in enumerate(self.rates, 1):
            block = _Block(self.width, self.stride if i == 1 else 1, i == 1, self.groups, rate, name=f"block{i}")
            x = block(x, train)
        return x


class _Bit(nn.Module):
    stages: tuple[tuple[int, int], ...]
    first: int
    groups: int
    drop_path: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = _Stem(self.first, name="stem")(check_images(x))
        rates, features = drop_path_rates(self.drop_path, [blocks for blocks, _ in self.stages]), {}
        for i, (_, width) in enumerate(self.stages, 1):
            stage = _Stage(width, 1 if i == 1 else 2, self.groups, rates[i - 1], name=f"stage{i}")
            x = features[f"stage{i}"] = stage(x, train)
        x = nn.relu(_norm(self.groups)(x))
        return features | {"last": x, "pooled": jnp.mean(x, (1, 2))}

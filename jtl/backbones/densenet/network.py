"""DenseNet: each layer's input is the concatenation of all earlier maps."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jtl.model import Model, from_linen
from jtl.nn.batch_norm import BatchNorm
from jtl.nn.layers import Conv, check_images
from jtl.nn.pooling import max_pool


class DenseSize(NamedTuple):
    """The dimensions of a DenseNet.

    Args:
      growth: channels that each layer adds.
      blocks: number of layers in each block.
      stem: channels of the stem.
    """

    growth: int
    blocks: Sequence[int]
    stem: int


_SIZES = {
    121: DenseSize(32, (6, 12, 24, 16), 64),
    161: DenseSize(48, (6, 12, 36, 24), 96),
    169: DenseSize(32, (6, 12, 32, 32), 64),
    201: DenseSize(32, (6, 12, 48, 32), 64),
}


def densenet(depth: int | DenseSize, *, bottleneck: int = 4, momentum: float = 0.1) -> Model:
    """A DenseNet: layers `concat(x, f(x))` in blocks, with channels and map halved between blocks.

    Features: `stage1`, ... [batch, h, w, c] after each block; `last`, the last of them normalised, with ReLU; `pooled`,
    its mean over pixels, 1024 wide for 121. Parameters: `stem/conv/kernel`, `stem/norm/scale`,
    `stage1/layer1/norm1/scale`, `stage1/layer1/conv1/kernel`, `stage1/layer1/norm2/scale`,
    `stage1/layer1/conv2/kernel`, ..., `stage2/down/norm/scale`, `stage2/down/conv/kernel`, ..., `norm/scale`.

    Args:
      depth: 121, 161, 169 or 201, or a custom `DenseSize`.
      bottleneck: channels of a layer's 1x1 convolution, in multiples of the growth.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for an unknown depth, or a block without layers.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.densenet(jtl.backbones.DenseSize(4, (1, 2), 8)), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 4, 4, 14), (2, 14))

    Huang et al., Densely Connected Convolutional Networks, 2016, arXiv 1608.06993.
    """
    if isinstance(depth, int) and depth not in _SIZES:
        raise ValueError(f"depth={depth}: give one of {sorted(_SIZES)}, or a DenseSize(growth, blocks, stem)")
    size = _SIZES[depth] if isinstance(depth, int) else depth._replace(blocks=tuple(depth.blocks))
    if not size.blocks or min(*size.blocks, size.growth, size.stem, bottleneck) < 1:
        raise ValueError(f"depth={depth}: each block has at least one layer, and all widths are positive")
    return from_linen(_DenseNet(size, bottleneck * size.growth, momentum))


class _Layer(nn.Module):
    growth: int
    inner: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.relu(BatchNorm(self.momentum, name="norm1")(x, train))
        y = Conv(self.inner, 1, name="conv1")(y)
        y = nn.relu(BatchNorm(self.momentum, name="norm2")(y, train))
        return jnp.concatenate([x, Conv(self.growth, 3, name="conv2")(y)], -1)


class _Stem(nn.Module):
    width: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(self.width, 7, 2, name="conv")(x)
        x = nn.relu(BatchNorm(self.momentum, name="norm")(x, train))
        return max_pool(x, 3, border=1)


class _Down(nn.Module):
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(BatchNorm(self.momentum, name="norm")(x, train))
        return nn.avg_pool(Conv(x.shape[-1] // 2, 1, name="conv")(x), (2, 2), (2, 2))


class _Stage(nn.Module):
    layers: int
    growth: int
    inner: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool, down: bool):
        x = _Down(self.momentum, name="down")(x, train) if down else x
        for i in range(1, self.layers + 1):
            x = _Layer(self.growth, self.inner, self.momentum, name=f"layer{i}")(x, train)
        return x


class _DenseNet(nn.Module):
    size: DenseSize
    inner: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        growth, blocks, stem = self.size
        x = _Stem(stem, self.momentum, name="stem")(check_images(x, 2 ** (len(blocks) + 1) - 3), train)
        features = {}
        for i, layers in enumerate(blocks, 1):
            x = features[f"stage{i}"] = _Stage(layers, growth, self.inner, self.momentum, name=f"stage{i}")(
                x, train, i > 1
            )
        x = nn.relu(BatchNorm(self.momentum, name="norm")(x, train))
        return features | {"last": x, "pooled": jnp.mean(x, (1, 2))}

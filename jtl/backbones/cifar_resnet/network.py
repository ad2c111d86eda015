"""Residual networks for small images, as He et al. trained them on CIFAR-10."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.model import Model, from_linen
from jtl.nn.batch_norm import BatchNorm
from jtl.nn.layers import Conv, check_images
from jtl.ops import computed_once


def cifar_resnet(depth: int = 20, *, width: int = 16, momentum: float = 0.1) -> Model:
    """A ResNet of `6n + 2` layers: a 3x3 stem, then three stages of n blocks `relu(short(x) + f(x))`.

    The second and third stages halve the map and double the channels. Their first shortcut has no weights (option A of
    the paper): it takes every second pixel and pads the channels with zeros, half of them on each side, as in the
    published PyTorch weights. Features: `stage1`, `stage2`, `stage3` [batch, h, w, c]; `last` is the third; `pooled`,
    its mean over pixels, `4 width` wide. Parameters: `stem/conv/kernel`, `stem/norm/scale`,
    `stage1/block1/conv1/kernel`, `stage1/block1/norm1/scale`, ...

    Args:
      depth: 20, 32, 44, 56 or 110 in the paper; any `6n + 2`.
      width: channels of the stem and of the first stage, an even number.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for a depth that is not `6n + 2`, or an odd width.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.cifar_resnet(8), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 8, 8, 64), (2, 64))

    He et al., Deep Residual Learning for Image Recognition, 2015, arXiv 1512.03385, section 4.2.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth={depth}: give 6n + 2, as 20, 32, 44, 56 or 110")
    if width < 2 or width % 2:
        raise ValueError(f"width={width}: give an even number, as half of it is padded on each side")
    return from_linen(_CifarResNet((depth - 2) // 6, width, momentum))


class _Block(nn.Module):
    width: int
    stride: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        y = Conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(self.momentum, name="norm1")(y, train))
        y = Conv(self.width, 3, name="conv2")(y)
        y = BatchNorm(self.momentum, name="norm2")(y, train)
        return computed_once(nn.relu(_shortcut(x, self.width, self.stride) + y))


def _shortcut(x: Float[Array, "b h w c"], width: int, stride: int) -> Float[Array, "b h2 w2 c2"]:
    room = width - x.shape[-1]
    if stride == 1 and room == 0:
        return x
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (room // 2, room // 2)))


class _Stem(nn.Module):
    width: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(self.width, 3, name="conv")(x)
        return nn.relu(BatchNorm(self.momentum, name="norm")(x, train))


class _Stage(nn.Module):
    blocks: int
    width: int
    stride: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        for i in range(1, self.blocks + 1):
            x = _Block(self.width, self.stride if i == 1 else 1, self.momentum, name=f"block{i}")(x, train)
        return x


class _CifarResNet(nn.Module):
    blocks: int
    width: int
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = _Stem(self.width, self.momentum, name="stem")(check_images(x), train)
        features = {}
        for i in (1, 2, 3):
            stage = _Stage(self.blocks, self.width * 2 ** (i - 1), min(i, 2), self.momentum, name=f"stage{i}")
            x = features[f"stage{i}"] = stage(x, train)
        return features | {"last": x, "pooled": jnp.mean(x, (1, 2))}

"""VGG: plain stacks of 3x3 convolutions."""

from collections.abc import Sequence

import flax.linen as nn

from jtl.checked import within
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import ConvNorm, HiddenLayers, Style
from jtl.nn.layers import Conv, check_images
from jtl.nn.pooling import max_pool, mean_to

DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)
_SIDE = 7  # side of the map that the first dense layer sees


def vgg(
    depth: int | Sequence[tuple[int, int]],
    *,
    batch_norm: bool = False,
    hidden: int = 4096,
    dropout: float = 0.5,
    momentum: float = 0.1,
) -> Model:
    """A VGG: stages of 3x3 convolutions with ReLU, each ending in a 2x2 max-pooling, and two dense layers.

    Features: `stage1`, ... [batch, h, w, c] after each pooling; `last` is the last stage's map; `pooled` [batch,
    hidden] is the output of the two dense layers on its means over a 7x7 grid of windows (the same as in timm at 224
    pixels; on larger maps timm slides the dense layers over the map). Parameters: `stage1/conv1/kernel`,
    `stage1/conv1/bias` (with batch normalisation `stage1/conv1/conv/kernel`, `stage1/conv1/norm/scale`), ...,
    `top/hidden1/kernel` [7·7·c, hidden], `top/hidden2/kernel`.

    Args:
      depth: 11, 13, 16 or 19, or (convolutions, channels) of each stage.
      batch_norm: whether to normalise after each convolution.
      hidden: width of the dense layers.
      dropout: dropout rate after each of them, in training.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for an unknown depth, or a probability outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.vgg([(1, 8), (1, 16)], hidden=32), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 8, 8, 16), (2, 32))

    Simonyan and Zisserman, Very Deep Convolutional Networks, 2014, arXiv 1409.1556.
    """
    if isinstance(depth, int):
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth}: give one of {sorted(DEPTHS)}, or (convolutions, channels) of each stage")
        stages = tuple(zip(DEPTHS[depth], _WIDTHS, strict=True))
    else:
        stages = tuple((count, width) for count, width in depth)
    if not stages or any(count < 1 or width < 1 for count, width in stages):
        raise ValueError(f"depth={depth}: each stage has at least one convolution and one channel")
    within("[0, 1)", dropout=dropout)
    return from_linen(_VGG(stages, batch_norm, hidden, dropout, momentum))


class _Stage(nn.Module):
    convolutions: int
    width: int
    batch_norm: bool
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        for i in range(1, self.convolutions + 1):
            if self.batch_norm:
                # torchvision's convolutions have a bias before the normalisation too.
                style = Style(nn.relu, momentum=self.momentum)
                x = ConvNorm(self.width, 3, style, bias=True, name=f"conv{i}")(x, train)
            else:
                x = nn.relu(Conv(self.width, 3, bias=True, name=f"conv{i}")(x))
        return max_pool(x)


class _VGG(nn.Module):
    stages: tuple[tuple[int, int], ...]
    batch_norm: bool
    hidden: int
    dropout: float
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        x, features = check_images(x, 2 ** len(self.stages)), {}
        for i, (count, width) in enumerate(self.stages, 1):
            x = features[f"stage{i}"] = _Stage(count, width, self.batch_norm, self.momentum, name=f"stage{i}")(x, train)
        flat = mean_to(x, _SIDE).reshape(x.shape[0], -1)
        pooled = HiddenLayers((self.hidden,) * 2, nn.relu, self.dropout, name="top")(flat, train)
        return features | {"last": x, "pooled": pooled}

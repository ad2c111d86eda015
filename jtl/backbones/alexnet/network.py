"""AlexNet, equal to torchvision's."""

from collections.abc import Sequence

import flax.linen as nn

from jtl.checked import within
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import HiddenLayers
from jtl.nn.layers import Conv, check_images
from jtl.nn.pooling import max_pool, mean_to

# (kernel, stride, padding) of each convolution, and the convolutions after which the map is pooled.
_LAYERS = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
_POOLED = (1, 2, 5)
_SIDE = 6  # side of the map that the first dense layer sees
_SMALLEST = 63  # side of the smallest image: one pixel of it is left at the end


def alexnet(*, widths: Sequence[int] = (64, 192, 384, 256, 256), hidden: int = 4096, dropout: float = 0.5) -> Model:
    """AlexNet: five convolutions with ReLU, three 3x3 max-poolings of stride 2, and two dense layers.

    The one-tower network of the second paper, as in torchvision. Features: `stage1`, `stage2` and `stage3` [batch, h,
    w, c] after each pooling; `last` is the third; `pooled` [batch, hidden] is the output of the two dense layers on its
    means over a 6x6 grid of windows. Parameters: `conv1/kernel`, `conv1/bias`, ..., `conv5/bias`, `top/hidden1/kernel`
    [6·6·c, hidden], `top/hidden2/kernel`.

    Args:
      widths: channels of the five convolutions.
      hidden: width of the dense layers.
      dropout: dropout rate before each of them, in training.

    Raises:
      ValueError: for other than five widths, or a probability outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.alexnet(widths=(8, 8, 8, 8, 16), hidden=32), jnp.zeros((2, 64, 64, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 1, 1, 16), (2, 32))

    Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012; Krizhevsky, One weird
    trick for parallelizing convolutional neural networks, 2014, arXiv 1404.5997.
    """
    if len(widths) != len(_LAYERS) or any(width < 1 for width in widths):
        raise ValueError(f"widths={tuple(widths)}: give the channels of {len(_LAYERS)} convolutions")
    within("[0, 1)", dropout=dropout)
    return from_linen(_AlexNet(tuple(widths), hidden, dropout))


class _AlexNet(nn.Module):
    widths: tuple[int, ...]
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        x, features = check_images(x, _SMALLEST), {}
        for i, (width, (kernel, stride, pad)) in enumerate(zip(self.widths, _LAYERS, strict=True), 1):
            x = nn.relu(Conv(width, kernel, stride, pad, bias=True, name=f"conv{i}")(x))
            if i in _POOLED:
                x = features[f"stage{len(features) + 1}"] = max_pool(x, 3)
        flat = mean_to(x, _SIDE).reshape(x.shape[0], -1)
        pooled = HiddenLayers((self.hidden,) * 2, nn.relu, self.dropout, before=True, name="top")(flat, train)
        return features | {"last": x, "pooled": pooled}

"""MobileNetV2: inverted residual blocks, which expand the channels, convolve depthwise and project back."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.checked import positive, within
from jtl.model import Model, from_linen
from jtl.nn.conv_blocks import ConvNorm, InvertedResidual, Style, by_resolution, rounded
from jtl.nn.layers import check_images

# (expansion, channels, blocks, stride of the first block) of each stage, from the paper's table 2.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    width: float = 1.0,
    *,
    depth: float = 1.0,
    same_padding: bool = False,
    eps: float = 1e-5,
    drop_path: float = 0.0,
    momentum: float = 0.1,
) -> Model:
    """A MobileNetV2: a stem, 17 blocks `x + project(depthwise(expand(x)))` with ReLU6, and a 1x1 convolution.

    Features: `stage1` to `stage5` [batch, h, w, c], the last map of each resolution from 1/2 to 1/32; `last` after the
    1x1 convolution; `pooled`, its mean over pixels, 1280 wide (more for widths above 1). Parameters:
    `stem/conv/kernel`, `stem/norm/scale`, `block1/depthwise/conv/kernel`, `block1/project/norm/scale`,
    `block2/expand/conv/kernel`, ..., `top/conv/kernel`.

    Args:
      width: factor for all channels, which are rounded to multiples of 8.
      depth: factor for the number of blocks in all stages but the first and the last. If it is not 1, the stem and the
        last convolution keep their 32 and 1280 channels, as in timm's `mobilenetv2_110d`.
      same_padding: pad as TensorFlow does, less at the top and left, in place of one pixel on each side. The weights in
        transformers were trained in this way, torchvision's were not.
      eps: epsilon of the normalisations: 1e-5 in torchvision, 1e-3 in transformers.
      drop_path: scale of the probabilities of dropping a block's branch for an example in training: the n-th of N
        blocks has `drop_path (n − 1) / N`, as in timm.
      momentum: weight of the new batch in the running statistics.

    Raises:
      ValueError: for a width or depth that is not positive, or a probability outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.mobilenet_v2(0.25, depth=0.25), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 1, 1, 1280), (2, 1280))

    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, arXiv 1801.04381.
    """
    positive(width=width)
    positive(depth=depth)
    within("[0, 1)", drop_path=drop_path)
    return from_linen(_MobileNetV2(width, depth, same_padding, Style(_relu6, eps, momentum), drop_path))


def repeats(depth: float = 1.0) -> list[int]:
    """The number of blocks of each stage."""
    first, *others, last = (count for _, _, count, _ in _STAGES)
    return [first, *(math.ceil(count * depth) for count in others), last]


def _relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.clip(x, 0, 6)


class _MobileNetV2(nn.Module):
    width: float
    depth: float
    same_padding: bool
    style: Style
    drop_path: float

    @nn.compact
    def __call__(self, x, train: bool):
        pad = "SAME" if self.same_padding else None
        ends = self.width if self.depth == 1 else 1.0
        features = rounded(32 * ends)
        x = ConvNorm(features, 3, self.style, 2, pad, name="stem")(check_images(x), train)
        blocks, counts = [], repeats(self.depth)
        for (expansion, channels, _, first), count in zip(_STAGES, counts, strict=True):
            for i in range(count):
                inner, features = features * expansion, rounded(channels * self.width)
                stride, path = first if i == 0 else 1, self.drop_path * len(blocks) / sum(counts)
                measures = inner, features, 3, stride, self.style
                name = f"block{len(blocks) + 1}"
                blocks.append(InvertedResidual(*measures, padding=pad, drop_path=path, name=name))
        x, found = by_resolution(x, blocks, train)
        x = ConvNorm(rounded(1280 * max(1.0, ends)), 1, self.style, name="top")(x, train)
        return found | {"last": x, "pooled": jnp.mean(x, (1, 2))}

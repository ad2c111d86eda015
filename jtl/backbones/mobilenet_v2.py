"""MobileNetV2: inverted residual blocks, wide within and narrow between."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jtl.backbones.layers import check_images, fan_out_normal
from jtl.backbones.norm import BatchNorm
from jtl.model import Model, from_linen

# (expansion, channels, blocks, stride of the first), the paper's table 2.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(width: float = 1.0, *, same_padding: bool = False, eps: float = 1e-5, momentum: float = 0.1) -> Model:
    """A MobileNetV2: a stem, 17 blocks `x + project(depthwise(expand(x)))` with ReLU6, and a 1x1 convolution.

    Features: `stage1` to `stage5` [batch, h, w, c], the last map of each resolution from 1/2 to 1/32; `last`
    after the 1x1 convolution; `pooled` its mean over pixels, 1280 wide (more for widths above 1). Parameters:
    `stem/conv/kernel`, `stem/norm/scale`, `block1/depthwise/conv/kernel`, `block1/project/norm/scale`,
    `block2/expand/conv/kernel`, ..., `top/conv/kernel`.

    Args:
      width: factor on all channels, which are rounded to multiples of 8.
      same_padding: pad as TensorFlow does, less at the top and left, in place of one pixel on each side: so the
        weights in transformers were trained, torchvision's were not.
      eps: of the normalisations: 1e-5 in torchvision, 1e-3 in transformers.
      momentum: share of the new batch in the running statistics.

    Raises:
      ValueError: for a width that is not positive.

    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, arXiv 1801.04381.
    """
    if not width > 0:
        raise ValueError(f"width={width}: must be positive")
    return from_linen(_MobileNetV2(width, same_padding, eps, momentum))


def channels(count: int, width: float) -> int:
    """`count * width` as a multiple of 8, at least 8 and at most a tenth below."""
    near = max(8, int(count * width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * count * width else near


class _Layer(nn.Module):
    """A convolution, its normalisation and, mostly, ReLU6."""

    features: int
    kernel: int
    net: "_MobileNetV2"
    stride: int = 1
    depthwise: bool = False
    active: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        net = self.net
        x = _Conv(self.features, self.kernel, self.stride, self.depthwise, net.same_padding, name="conv")(x)
        x = BatchNorm(net.momentum, net.eps, name="norm")(x, train)
        return jnp.clip(x, 0, 6) if self.active else x


class _Conv(nn.Module):
    features: int
    kernel: int
    stride: int
    depthwise: bool
    same_padding: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        groups = x.shape[-1] if self.depthwise else 1
        shape = (self.kernel, self.kernel, x.shape[-1] // groups, self.features)
        kernel = self.param("kernel", fan_out_normal, shape, jnp.float32).astype(x.dtype)
        border = (self.kernel // 2, self.kernel // 2)
        pad = "SAME" if self.same_padding else (border, border)
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, pad, dimension_numbers=layout, feature_group_count=groups
        )


class _Block(nn.Module):
    expansion: int
    features: int
    stride: int
    net: "_MobileNetV2"

    @nn.compact
    def __call__(self, x, train: bool):
        inner = x.shape[-1] * self.expansion
        y = x if self.expansion == 1 else _Layer(inner, 1, self.net, name="expand")(x, train)
        y = _Layer(inner, 3, self.net, self.stride, depthwise=True, name="depthwise")(y, train)
        y = _Layer(self.features, 1, self.net, active=False, name="project")(y, train)
        return x + y if x.shape == y.shape else y


class _MobileNetV2(nn.Module):
    width: float
    same_padding: bool
    eps: float
    momentum: float

    @nn.compact
    def __call__(self, x, train: bool):
        net = self.clone(parent=None)  # the measures alone, which the layers below read
        x = _Layer(channels(32, self.width), 3, net, 2, name="stem")(check_images(x), train)
        maps, block = [], 0
        for expansion, features, blocks, first in _STAGES:
            for i in range(blocks):
                block, stride = block + 1, first if i == 0 else 1
                if stride == 2:
                    maps.append(x)
                features_out = channels(features, self.width)
                x = _Block(expansion, features_out, stride, net, name=f"block{block}")(x, train)
        found = {f"stage{i}": m for i, m in enumerate([*maps, x], 1)}
        x = _Layer(channels(1280, max(1.0, self.width)), 1, net, name="top")(x, train)
        return found | {"last": x, "pooled": jnp.mean(x, (1, 2))}

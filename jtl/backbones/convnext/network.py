"""ConvNeXt: convolutional blocks designed like transformer blocks."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.checked import within
from jtl.model import Model, from_linen
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.layers import Conv, DropPath, check_images, drop_path_rates
from jtl.nn.transformer import Mlp, exact_gelu, trunc_normal
from jtl.ops import computed_once

_SIZES = {
    "T": ((3, 96), (3, 192), (9, 384), (3, 768)),
    "S": ((3, 96), (3, 192), (27, 384), (3, 768)),
    "B": ((3, 128), (3, 256), (27, 512), (3, 1024)),
    "L": ((3, 192), (3, 384), (27, 768), (3, 1536)),
    "XL": ((3, 256), (3, 512), (27, 1024), (3, 2048)),
}


def convnext(
    size: Literal["T", "S", "B", "L", "XL"] | Sequence[tuple[int, int]],
    *,
    patch: int = 4,
    overlap: int | None = None,
    eps: float = 1e-6,
    layer_scale: float | None = 1e-6,
    drop_path: float = 0.0,
    norm_first: bool = False,
    hidden: int | None = None,
) -> Model:
    """A ConvNeXt: blocks `x + γ mlp(norm(depthwise(x)))` with 7x7 kernels, in stages that halve the map.

    Features: `stage1`, ... [batch, h, w, c]; `last` is the last stage's map; `pooled`, its mean over pixels,
    normalised. Parameters: `stem/conv/kernel`, `stem/norm/scale`, `stage1/block1/depthwise/kernel`,
    `stage1/block1/norm/scale`, `stage1/block1/mlp/up/kernel`, `stage1/block1/mlp/down/kernel`, `stage1/block1/scale`
    (γ), ..., `stage2/down/norm/scale`, `stage2/down/conv/kernel`, ..., `norm/scale`.

    Args:
      size: "T", "S", "B", "L", "XL", or (blocks, channels) of each stage.
      patch: side in pixels of the tiles that the stem convolves.
      overlap: channels between two 3x3 convolutions of stride 2, `stem/conv1` and `stem/conv2`, which replace the
        stem's convolution of tiles; None for tiles.
      eps: epsilon of the last normalisation: 1e-6 in timm and torchvision, 1e-12 in transformers. The other
        normalisations use 1e-6.
      layer_scale: initial γ; None for no γ.
      drop_path: probability of dropping the last block's branch for an example in training; it rises linearly from 0 at
        the first block.
      norm_first: whether the last normalisation comes before the mean.
      hidden: width of a dense layer with GELU, `hidden/kernel`, that is applied to `pooled`; None omits it.

    Raises:
      ValueError: for an unknown size, `overlap` with a patch other than 4, or a probability outside [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.convnext([(1, 8), (1, 16)]), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 4, 4, 16), (2, 16))

    Liu et al., A ConvNet for the 2020s, 2022, arXiv 2201.03545.
    """
    if isinstance(size, str) and size not in _SIZES:
        raise ValueError(f"size={size!r}: give one of {list(_SIZES)}, or (blocks, channels) of each stage")
    stages = _SIZES[size] if isinstance(size, str) else tuple((blocks, width) for blocks, width in size)
    if not stages or any(blocks < 1 or width < 1 for blocks, width in stages):
        raise ValueError(f"size={size!r}: each stage has at least one block and one channel")
    within("[0, 1)", drop_path=drop_path)
    if overlap is not None and (overlap < 1 or patch != 4):
        raise ValueError(
            f"overlap={overlap}, patch={patch}: give at least one channel, and patch=4, the steps of the two"
        )
    return from_linen(_ConvNeXt(stages, patch, overlap, eps, layer_scale, drop_path, norm_first, hidden))


class _Block(nn.Module):
    layer_scale: float | None
    drop_path: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Array:
        channels = x.shape[-1]
        y = Conv(channels, 7, bias=True, kernel_init=trunc_normal, depthwise=True, name="depthwise")(x)
        tokens = LayerNorm(name="norm")(y).reshape(x.shape[0], -1, channels)
        y = Mlp(4 * channels, name="mlp")(tokens, train).reshape(x.shape)
        if self.layer_scale is not None:
            scale = self.param("scale", nn.initializers.constant(self.layer_scale), (channels,), jnp.float32)
            y = y * scale.astype(x.dtype).reshape(1, 1, 1, -1)
        return computed_once(x + DropPath(self.drop_path)(y, train))


class _Stem(nn.Module):
    width: int
    patch: int
    overlap: int | None

    @nn.compact
    def __call__(self, x):
        if self.overlap is None:
            return LayerNorm(name="norm")(
                Conv(self.width, self.patch, self.patch, 0, bias=True, kernel_init=trunc_normal, name="conv")(x)
            )
        for i, width in enumerate((self.overlap, self.width), 1):
            x = Conv(width, 3, 2, bias=True, kernel_init=trunc_normal, name=f"conv{i}")(x)
        return LayerNorm(name="norm")(x)


class _Down(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return Conv(self.width, 2, 2, 0, bias=True, kernel_init=trunc_normal, name="conv")(LayerNorm(name="norm")(x))


class _Stage(nn.Module):
    width: int
    rates: tuple[float, ...]
    layer_scale: float | None

    @nn.compact
    def __call__(self, x, train: bool, down: bool):
        x = _Down(self.width, name="down")(x) if down else x
        for i, rate in enumerate(self.rates, 1):
            x = _Block(self.layer_scale, rate, name=f"block{i}")(x, train)
        return x


class _ConvNeXt(nn.Module):
    stages: tuple[tuple[int, int], ...]
    patch: int
    overlap: int | None
    eps: float
    layer_scale: float | None
    drop_path: float
    norm_first: bool
    hidden: int | None

    @nn.compact
    def __call__(self, x, train: bool):
        x = check_images(x, self.patch * 2 ** (len(self.stages) - 1))
        x = _Stem(self.stages[0][1], self.patch, self.overlap, name="stem")(x)
        rates, features = drop_path_rates(self.drop_path, [blocks for blocks, _ in self.stages]), {}
        for i, (_, width) in enumerate(self.stages, 1):
            x = features[f"stage{i}"] = _Stage(width, rates[i - 1], self.layer_scale, name=f"stage{i}")(x, train, i > 1)
        norm = LayerNorm(self.eps, name="norm")
        pooled = jnp.mean(norm(x), (1, 2)) if self.norm_first else norm(jnp.mean(x, (1, 2)))
        if self.hidden is not None:
            pooled = exact_gelu(nn.Dense(self.hidden, kernel_init=trunc_normal, name="hidden")(pooled))
        return features | {"last": x, "pooled": pooled}

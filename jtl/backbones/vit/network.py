"""Vision transformers."""

from typing import Literal

import flax.linen as nn

from jtl.model import Model, from_linen
from jtl.nn.sizes import Size, one_of, sized
from jtl.nn.transformer import exact_gelu
from jtl.nn.vision_transformer import VisionTransformer, check_grid

SIZES = {
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "B": Size(768, 12, 12, 3072),
    "L": Size(1024, 24, 16, 4096),
}
_GIANT = {"g": Size(1536, 40, 24, 4096)}


def vit(
    size: Literal["Ti", "S", "B", "L"] | Size,
    *,
    patch: int = 16,
    image: int = 224,
    eps: float = 1e-6,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Model:
    """A ViT: patches and a class token through pre-norm transformer blocks, and a last normalisation.

    Features: `stage1`, `stage2`, ... [batch, 1 + patches, width] after each block; `last`, the last of them
    normalised; `pooled`, its class token [batch, width]. Parameters: `embed/kernel`, `class_token`,
    `position`, `block1/norm1/scale`, `block1/attention/query/kernel` [width, width] (and `key`, `value`,
    `out`), `block1/norm2/scale`, `block1/mlp/up/kernel`, `block1/mlp/down/kernel`, ..., `norm/scale`.

    Args:
      size: "Ti", "S", "B", "L", or a custom `Size`.
      patch: side of a patch in pixels.
      image: side of the images in pixels, a multiple of `patch`.
      eps: epsilon of the layer normalisations: 1e-6 in timm and JAX checkpoints, 1e-12 in transformers' ViT.
      dropout: dropout rate after the embedding and both branches of each block, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      drop_path: probability of dropping the last block's branches for an example in training; it rises linearly from 0
        at the first block.

    Raises:
      ValueError: for an unknown size, or sizes that do not divide evenly; when called on images of another size.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.vit(jtl.backbones.Size(8, 1, 2, 16), patch=8, image=32), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 17, 8), (2, 8))

    Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, arXiv 2010.11929.
    """
    check_grid(image, patch)
    net = VisionTransformer(
        sized(size, SIZES), patch, image, eps, dropout, attention_dropout=attention_dropout, drop_path=drop_path
    )
    return from_linen(net)


def deit(
    size: Literal["Ti", "S", "B"] | Size,
    *,
    patch: int = 16,
    image: int = 224,
    eps: float = 1e-6,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    pool: Literal["tokens", "token"] = "tokens",
) -> Model:
    """A distilled DeiT: a ViT with a second token, trained by distillation from a teacher.

    Features as for `vit`, with the distillation token after the class token; `pooled` [batch, 2 width] is both
    concatenated, and `heads.averaged` is the head for it. Parameters in addition to those of `vit`:
    `distillation_token`.

    Args:
      size: "Ti", "S", "B", or a custom `Size`.
      patch: side of a patch in pixels.
      image: side of the images in pixels, a multiple of `patch`.
      eps: epsilon of the layer normalisations: 1e-6 in timm's checkpoints, 1e-12 in transformers'.
      dropout: dropout rate after the embedding and both branches of each block, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      drop_path: as for `vit`.
      pool: "token" makes `pooled` [batch, width] the class token alone.

    Raises:
      ValueError: for an unknown size or pool, or sizes that do not divide evenly; when called on images of another
        size.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.deit(jtl.backbones.Size(8, 1, 2, 16), patch=8, image=32), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 18, 8), (2, 16))

    Touvron et al., Training Data-efficient Image Transformers & Distillation through Attention, 2020, arXiv 2012.12877.
    """
    check_grid(image, patch)
    net = VisionTransformer(
        sized(size, SIZES),
        patch,
        image,
        eps,
        dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        tokens=("class_token", "distillation_token"),
        pool=one_of("pool", pool, ("tokens", "token")),
    )
    return from_linen(net)


def deit3(
    size: Literal["S", "B", "L"] | Size,
    *,
    patch: int = 16,
    image: int = 224,
    eps: float = 1e-6,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
    layer_scale: float = 1e-6,
) -> Model:
    """A DeiT-III: a ViT with layer scale, whose class token has no position embedding.

    Features as for `vit`. Parameters in addition to those of `vit`: `block1/scale1`, `block1/scale2`, ...; `position`
    is [1, patches, width].

    Args:
      size: "S", "B", "L", or a custom `Size`.
      patch: side of a patch in pixels.
      image: side of the images in pixels, a multiple of `patch`.
      eps: epsilon of the layer normalisations.
      dropout: dropout rate after the embedding and both branches of each block, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      drop_path: as for `vit`.
      layer_scale: initial value of the branches' factors.

    Raises:
      ValueError: for an unknown size, or sizes that do not divide evenly; when called on images of another size.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.deit3(jtl.backbones.Size(8, 1, 2, 16), patch=8, image=32), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 17, 8), (2, 8))

    Touvron et al., DeiT III: Revenge of the ViT, 2022, arXiv 2204.07118.
    """
    check_grid(image, patch)
    net = VisionTransformer(
        sized(size, SIZES),
        patch,
        image,
        eps,
        dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        layer_scale=layer_scale,
        token_positions=False,
    )
    return from_linen(net)


def dinov2(
    size: Literal["S", "B", "L", "g"] | Size,
    *,
    patch: int = 14,
    image: int = 518,
    eps: float = 1e-6,
    registers: int = 0,
    mask_token: bool = False,
    layer_scale: float = 1.0,
    antialias: bool = False,
    attention_dropout: float = 0.0,
    swiglu: bool | None = None,
    pool: Literal["token+mean", "token"] = "token+mean",
) -> Model:
    """A DINOv2 ViT: layer scale, registers, and images of any size.

    Features as for `vit`, with the registers after the class token, and `token`, the class token of `last`; `pooled`
    [batch, 2 width] is `token` concatenated with the mean of the patches, which is what DINOv2's classifiers see.
    Parameters in addition to those of `vit`: `block1/scale1`, `block1/scale2`, ..., `registers`, `mask_token`.

    Args:
      size: "S", "B", "L", "g", or a custom `Size`.
      patch: side of a patch in pixels.
      image: side in pixels of the images that the position embeddings are for, a multiple of `patch`; for other
        images they are interpolated.
      eps: epsilon of the layer normalisations.
      registers: number of tokens without a position.
      mask_token: whether to keep the token that replaced masked patches in pretraining; no output sees it.
      layer_scale: initial value of the branches' factors.
      antialias: whether the interpolation filters against aliasing; in transformers it does with registers, and not
        without.
      attention_dropout: dropout rate of the attention weights, in training.
      swiglu: whether the MLPs are `down(silu(a) · b)` of the halves a, b of `up` [width, 2 hidden], in place of GELU
        MLPs; None for "g" only.
      pool: "token" makes `pooled` [batch, width] the class token alone, which is what timm's classifiers see.

    Raises:
      ValueError: for an unknown size or pool, or sizes that do not divide evenly.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> size = jtl.backbones.Size(8, 1, 2, 16)
      >>> net, x = jtl.backbones.dinov2(size, patch=8, image=32, registers=4), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 21, 8), (2, 16))

    Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023, arXiv 2304.07193; Darcet et al.,
    Vision Transformers Need Registers, 2023, arXiv 2309.16588.
    """
    check_grid(image, patch)
    gated = size == "g" if swiglu is None else swiglu
    net = VisionTransformer(
        sized(size, SIZES | _GIANT),
        patch,
        image,
        eps,
        attention_dropout=attention_dropout,
        activation=nn.silu if gated else exact_gelu,
        gated=gated,
        layer_scale=layer_scale,
        registers=registers,
        mask_token=mask_token,
        resample="antialias" if antialias else "bicubic",
        pool=one_of("pool", pool, ("token+mean", "token")),
    )
    return from_linen(net)

"""SigLIP's image tower and text tower."""

from typing import Literal

import flax.linen as nn

from jtl.model import Model, from_linen
from jtl.nn.sizes import Size, one_of
from jtl.nn.text_tower import TextTower
from jtl.nn.transformer import exact_gelu
from jtl.nn.vision_transformer import VisionTransformer

ACTIVATIONS = {"gelu_tanh": nn.gelu, "gelu": exact_gelu}


def siglip_image(
    size: Size,
    *,
    patch: int = 16,
    image: int = 224,
    eps: float = 1e-6,
    attention_dropout: float = 0.0,
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh",
    pool: Literal["attention", "mean"] = "attention",
) -> Model:
    """SigLIP's image tower: a ViT without a class token, whose patches are pooled by attention.

    Features: `stage1`, `stage2`, ... [batch, patches, width]; `last`, normalised; `pooled` [batch, width], a learned
    query's attention over them followed by an MLP. Parameters: those of `vit` except `class_token`, and in addition
    `pool/query`, `pool/attention/query/kernel`, ..., `pool/norm/scale`, `pool/mlp/up/kernel`, ...

    Args:
      size: width, depth, heads and hidden width.
      patch: side of a patch in pixels.
      image: side of the images in pixels; pixels at the right and bottom that do not fill a patch are ignored.
      eps: epsilon of the layer normalisations.
      attention_dropout: dropout rate of the blocks' attention weights, in training.
      activation: activation of the MLPs; the weights were trained with the tanh form of the GELU, but timm uses the
        exact one in most of its towers.
      pool: "attention" as above; "mean" makes `pooled` the mean of the patches, without parameters.

    Raises:
      ValueError: for an unknown activation or pool, or heads that do not divide the width; when called on
        images of another size.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net, x = jtl.backbones.siglip_image(jtl.backbones.Size(8, 1, 2, 16), image=32), jnp.zeros((2, 32, 32, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 4, 8), (2, 8))

    Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, arXiv 2303.15343.
    """
    net = VisionTransformer(
        size,
        patch,
        image,
        eps,
        attention_dropout=attention_dropout,
        activation=ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)],
        tokens=(),
        pool=one_of("pool", pool, ("attention", "mean")),
    )
    return from_linen(net)


def siglip_text(
    size: Size,
    *,
    vocabulary: int = 32000,
    positions: int = 64,
    projection: int = 768,
    eps: float = 1e-6,
    attention_dropout: float = 0.0,
) -> Model:
    """A bidirectional transformer over tokens, padding included; the last token's output represents the whole text.

    The input is {"ids": int [batch, tokens]}, padded at the end to `positions` tokens, as in training; a "mask" is
    ignored. Features: `stage1`, `stage2`, ... [batch, tokens, width]; `last`, normalised; `token`, its last row;
    `pooled` [batch, projection], an affine map of `token`. Parameters as for `clip_text`, and `projection/bias`.

    Args:
      size: width, depth, heads and hidden width.
      vocabulary: number of tokens.
      positions: the longest text in tokens.
      projection: width of the embedding.
      eps: epsilon of the layer normalisations.
      attention_dropout: dropout rate of the attention weights, in training.

    Raises:
      ValueError: for heads that do not divide the width; when called on no tokens or too many.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.siglip_text(jtl.backbones.Size(8, 1, 2, 16), vocabulary=30, projection=4)
      >>> x = {"ids": jnp.ones((2, 6), jnp.int32), "mask": jnp.ones((2, 6), bool)}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 6, 8), (2, 4))

    Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, arXiv 2303.15343.
    """
    net = TextTower(
        size,
        vocabulary,
        positions,
        eps,
        nn.gelu,
        causal=False,
        pool="last",
        projection=projection,
        projection_bias=True,
        attention_dropout=attention_dropout,
    )
    return from_linen(net)

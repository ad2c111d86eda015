"""CLIP's image tower and text tower."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from jtl.checked import whole
from jtl.model import Model, from_linen
from jtl.nn.sizes import Size, one_of
from jtl.nn.text_tower import TextTower
from jtl.nn.transformer import exact_gelu
from jtl.nn.vision_transformer import VisionTransformer, check_grid


def quick_gelu(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """`x σ(1.702 x)`, an approximation of GELU with an error of up to 2e-2."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


def clip_image(
    size: Size,
    *,
    patch: int = 32,
    image: int = 224,
    projection: int | None = 512,
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu",
    eps: float = 1e-5,
    attention_dropout: float = 0.0,
) -> Model:
    """CLIP's image tower: a ViT with an additional normalisation before the first block.

    Features: those of `vit`; `token`, the class token of `last`; `pooled` [batch, projection], a linear map of it, to
    be compared with texts. Parameters: those of `vit` except `embed/bias`, and in addition `first_norm` and
    `projection/kernel`.

    Args:
      size: width, depth, heads and hidden width.
      patch: side of a patch in pixels.
      image: side of the images in pixels, a multiple of `patch`.
      projection: width of the embedding; None for the class token itself.
      activation: activation of the MLPs; OpenAI's weights were trained with "quick_gelu".
      eps: epsilon of the layer normalisations.
      attention_dropout: dropout rate of the attention weights, in training.

    Raises:
      ValueError: for an unknown activation, or sizes that do not divide evenly; when called on images of another size.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> size = jtl.backbones.Size(8, 1, 2, 16)
      >>> net, x = jtl.backbones.clip_image(size, image=64, projection=4), jnp.zeros((2, 64, 64, 3))
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 5, 8), (2, 4))

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020.
    """
    check_grid(image, patch)
    net = VisionTransformer(
        size,
        patch,
        image,
        eps,
        attention_dropout=attention_dropout,
        activation=ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)],
        embed_bias=False,
        first_norm=True,
        projection=projection,
    )
    return from_linen(net)


def clip_text(
    size: Size,
    *,
    vocabulary: int = 49408,
    positions: int = 77,
    end: int | None = 49407,
    projection: int | None = 512,
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu",
    eps: float = 1e-5,
    attention_dropout: float = 0.0,
) -> Model:
    """A causal transformer over tokens; the end-of-text token's output represents the whole text.

    The input is {"ids": int [batch, tokens], "mask": bool [batch, tokens]}. Features: `stage1`, `stage2`, ... [batch,
    tokens, width]; `last`, normalised; `token`, its row at the text's end; `pooled` [batch, projection], a linear map
    of it. Parameters: `token` [vocabulary, width], `position`, `block1/...`, `norm/scale`, `projection/kernel`.

    Args:
      size: width, depth, heads and hidden width.
      vocabulary: number of tokens.
      positions: the longest text in tokens.
      end: id of the token that ends a text; None for the largest id in the text, as in the first releases.
      projection: width of the embedding; None for the token itself.
      activation: activation of the MLPs.
      eps: epsilon of the layer normalisations.
      attention_dropout: dropout rate of the attention weights, in training.

    Raises:
      ValueError: for an unknown activation, or sizes that do not divide evenly; when called on no tokens or too many.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.backbones.clip_text(jtl.backbones.Size(8, 1, 2, 16), vocabulary=30, end=1, projection=4)
      >>> x = {"ids": jnp.ones((2, 6), jnp.int32), "mask": jnp.ones((2, 6), bool)}
      >>> out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0), x), x, train=False)[0])
      >>> out["last"].shape, out["pooled"].shape
      ((2, 6, 8), (2, 4))

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020.
    """
    if end is not None:
        whole(0, end=end)
    net = TextTower(
        size,
        vocabulary,
        positions,
        eps,
        ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)],
        causal=True,
        pool="largest" if end is None else end,
        projection=projection,
        projection_bias=False,
        attention_dropout=attention_dropout,
    )
    return from_linen(net)

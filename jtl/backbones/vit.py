"""Vision transformers."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jtl.backbones.layers import Conv, check_images
from jtl.backbones.transformer import Block, trunc_normal
from jtl.model import Model, from_linen


class Size(NamedTuple):
    """The measures of a transformer.

    Args:
      width: of a token.
      depth: number of blocks.
      heads: of the attention; divides the width.
      hidden: width of the blocks' perceptron.
    """

    width: int
    depth: int
    heads: int
    hidden: int


_SIZES = {
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "B": Size(768, 12, 12, 3072),
    "L": Size(1024, 24, 16, 4096),
}


def vit(
    size: Literal["Ti", "S", "B", "L"] | Size,
    *,
    patch: int = 16,
    image: int = 224,
    eps: float = 1e-6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Model:
    """A ViT: patches and a class token through pre-norm transformer blocks, and a last normalisation.

    Features: `stage1`, `stage2`, ... [batch, 1 + patches, width] after each block; `last`, the last of them
    normalised; `pooled`, its class token [batch, width]. Parameters: `embed/kernel`, `class_token`,
    `position`, `block1/norm1/scale`, `block1/attention/query/kernel` [width, width] (and `key`, `value`,
    `out`), `block1/norm2/scale`, `block1/mlp/up/kernel`, `block1/mlp/down/kernel`, ..., `norm/scale`.

    Args:
      size: "Ti", "S", "B", "L", or a `Size` of one's own.
      patch: side of a patch in pixels.
      image: side of the images in pixels, a multiple of `patch`.
      eps: of the layer normalisations: 1e-6 in timm and JAX checkpoints, 1e-12 in transformers' ViT.
      dropout: after the embedding and both branches of each block, in training.
      drop_path: probability of dropping the last block's branches for an example in training; it grows
        linearly from 0 at the first.

    Raises:
      ValueError: for an unknown size, or numbers that do not divide one another; when called on images of
        another size.

    Dosovitskiy et al., An Image is Worth 16x16 Words, 2020, arXiv 2010.11929.
    """
    if isinstance(size, str) and size not in _SIZES:
        raise ValueError(f"size={size!r}: give one of {list(_SIZES)}, or a Size(width, depth, heads, hidden)")
    size = _SIZES[size] if isinstance(size, str) else size
    if size.width % size.heads:
        raise ValueError(f"width={size.width} is no multiple of heads={size.heads}")
    if image % patch:
        raise ValueError(f"image={image} is no multiple of patch={patch}")
    for name, rate in (("dropout", dropout), ("drop_path", drop_path)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name}={rate}: the probability lies in [0, 1)")
    return from_linen(_ViT(size, patch, image, eps, dropout, drop_path))


class _ViT(nn.Module):
    size: Size
    patch: int
    image: int
    eps: float
    dropout: float
    drop_path: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = check_images(x)
        if x.shape[1:3] != (self.image, self.image):
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} pixels: this network was made for "
                f"{self.image}x{self.image}; resize them, or give vit(..., image=)"
            )
        width, depth, heads, hidden = self.size
        x = Conv(width, self.patch, self.patch, 0, bias=True, init=trunc_normal, name="embed")(x)
        x = x.reshape(x.shape[0], -1, width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, width)), x], 1)
        x = x + self.param("position", trunc_normal, (1, x.shape[1], width), jnp.float32).astype(x.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        features = {}
        for i in range(1, depth + 1):
            path = self.drop_path * (i - 1) / max(depth - 1, 1)
            block = Block(heads, hidden, self.eps, self.dropout, path, self.dropout, name=f"block{i}")
            x = features[f"stage{i}"] = block(x, train)
        x = nn.LayerNorm(self.eps, use_fast_variance=False, name="norm")(x)
        return features | {"last": x, "pooled": x[:, 0]}

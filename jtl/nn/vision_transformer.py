"""The vision transformer that ViT, DeiT, DINOv2 and the image towers of CLIP and SigLIP share."""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jtl.checked import whole, within
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.layers import Conv, check_images
from jtl.nn.sizes import Size, check_size
from jtl.nn.transformer import Attention, Block, Mlp, exact_gelu, trunc_normal
from jtl.ops import row_major


def check_grid(image: int, patch: int) -> None:
    """Refuses sides that are not integers of at least 1, and patches that do not fill the image.

    Raises:
      ValueError: naming both.
    """
    whole(1, image=image, patch=patch)
    if image % patch:
        raise ValueError(f"image={image} is no multiple of patch={patch}")


class VisionTransformer(nn.Module):
    """Patches and additional tokens through pre-norm blocks and a last normalisation.

    Args:
      size: width, depth, heads and hidden width.
      patch: side of a patch in pixels.
      image: side of the images in pixels that the position embeddings are for.
      eps: epsilon of the layer normalisations.
      dropout: dropout rate after the embedding and both branches of each block, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      drop_path: drop probability of the last block's branches; it rises linearly from 0 at the first block.
      activation: activation of the MLPs.
      gated: whether the MLPs of the blocks are gated.
      layer_scale: initial value of the branches' factors; None omits them.
      tokens: names of the learned tokens before the patches; the first is the class token.
      token_positions: whether those tokens have positions, as the patches have.
      registers: number of tokens after those, without positions.
      mask_token: whether there is the token that replaced masked patches in pretraining. Nothing here reads it; it is
        only kept for writing files.
      embed_bias: whether the patches' embedding has a bias.
      first_norm: whether there is a normalisation before the first block.
      resample: how position embeddings are interpolated for images of another size: "bicubic", or "antialias", which is
        bicubic too; None refuses other sizes.
      pool: what makes `pooled`: the class token, all of `tokens` concatenated, the class token concatenated with the
        mean of the patches, that mean alone, or a learned query's attention over all tokens.
      projection: width of a linear map after the pooling, without a bias; None omits it.
    """

    size: Size
    patch: int
    image: int
    eps: float
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    activation: Callable[[Array], Array] = exact_gelu
    gated: bool = False
    layer_scale: float | None = None
    tokens: tuple[str, ...] = ("class_token",)
    token_positions: bool = True
    registers: int = 0
    mask_token: bool = False
    embed_bias: bool = True
    first_norm: bool = False
    resample: Literal["bicubic", "antialias"] | None = None
    pool: Literal["token", "tokens", "token+mean", "mean", "attention"] = "token"
    projection: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_size(self.size, dropout=self.dropout, attention_dropout=self.attention_dropout, drop_path=self.drop_path)
        whole(0, registers=self.registers)
        if self.projection is not None:
            whole(1, projection=self.projection)
        if self.layer_scale is not None:
            within("(-inf, inf)", layer_scale=self.layer_scale)
        if self.image < self.patch:
            raise ValueError(f"image={self.image} holds no patch of patch={self.patch}")

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Array]:
        """Returns the features by name."""
        x = self._patches(check_images(x, self.patch if self.resample else 1))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.first_norm:
            x = self._norm("first_norm")(x)
        x, features = stack(
            x,
            self.size,
            train,
            drop_path=self.drop_path,
            eps=self.eps,
            dropout=self.dropout,
            mlp_dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation=self.activation,
            gated=self.gated,
            layer_scale=self.layer_scale,
        )
        x = self._norm("norm")(x)
        return features | {"last": x} | self._pooled(row_major(x), train)

    def _patches(self, x: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch tokens width"]:
        if x.shape[1:3] != (self.image, self.image) and self.resample is None:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} pixels: this network was made for "
                f"{self.image}x{self.image}; resize them, or give vit(..., image=)"
            )
        width, count = self.size.width, len(self.tokens)
        first = count if self.token_positions else 0
        x = Conv(width, self.patch, self.patch, 0, bias=self.embed_bias, kernel_init=trunc_normal, name="embed")(x)
        grid = (x.shape[1], x.shape[2])
        x = x.reshape(x.shape[0], -1, width)
        tokens = [self._token(name, 1, x) for name in self.tokens]
        x = jnp.concatenate([*tokens, x], 1) if self.token_positions else x
        shape = (1, first + (self.image // self.patch) ** 2, width)
        position = self.param("position", trunc_normal, shape, jnp.float32)
        x = x + interpolated(position, grid, self.resample == "antialias").astype(x.dtype)
        x = x if self.token_positions else jnp.concatenate([*tokens, x], 1)
        if self.registers:
            x = jnp.concatenate([x[:, :count], self._token("registers", self.registers, x), x[:, count:]], 1)
        if self.mask_token:
            self.param("mask_token", nn.initializers.zeros, (1, width), jnp.float32)
        return x

    def _token(self, name: str, count: int, x: Array) -> Array:
        token = self.param(name, nn.initializers.zeros, (1, count, x.shape[-1]), jnp.float32)
        return jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], count, x.shape[-1]))

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.eps, name=name)

    def _pooled(self, x: Float[Array, "batch tokens width"], train: bool) -> dict[str, Array]:
        if self.pool == "attention":
            pool = AttentionPool(self.size.heads, self.size.hidden, self.eps, self.activation, name="pool")
            return {"pooled": pool(x, train)}
        token, first = x[:, 0], len(self.tokens)
        if self.pool == "tokens":
            return {"pooled": x[:, :first].reshape(len(x), -1)}
        if self.pool in ("token+mean", "mean"):
            mean = x[:, first + self.registers :].mean(1)
            if self.pool == "mean":
                return {"pooled": mean}
            return {"token": token, "pooled": jnp.concatenate([token, mean], -1)}
        if self.projection is None:
            return {"pooled": token}
        project = nn.Dense(self.projection, use_bias=False, kernel_init=trunc_normal, name="projection")
        return {"token": token, "pooled": project(token)}


class AttentionPool(nn.Module):
    """Pools tokens into one vector: `y = attention(q, x)` with a learned query q, then `y + mlp(norm(y))`.

    Args:
      heads: number of attention heads.
      hidden: hidden width of the MLP.
      eps: epsilon of the normalisation.
      activation: activation of the MLP.

    Zhai et al., Scaling Vision Transformers, 2021, arXiv 2106.04560.
    """

    heads: int
    hidden: int
    eps: float
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], train: bool) -> Float[Array, "batch width"]:
        """Returns the pooled vector."""
        query = self.param("query", trunc_normal, (1, 1, x.shape[-1]), jnp.float32).astype(x.dtype)
        query = jnp.broadcast_to(query, (x.shape[0], 1, x.shape[-1]))
        y = Attention(self.heads, name="attention")(query, train, source=x)
        norm = LayerNorm(self.eps, name="norm")
        return (y + Mlp(self.hidden, activation=self.activation, name="mlp")(norm(y), train))[:, 0]


def stack(
    x: Float[Array, "batch tokens width"],
    size: Size,
    train: bool,
    *,
    mask: Bool[Array, "#batch #heads #tokens tokens"] | None = None,
    drop_path: float = 0.0,
    **options,
) -> tuple[Array, dict[str, Array]]:
    """Runs `block1`, `block2`, ... of the calling module; returns the last tokens, and all as `stage1`, ..."""
    features = {}
    for i in range(1, size.depth + 1):
        path = drop_path * (i - 1) / max(size.depth - 1, 1)
        block = Block(size.heads, size.hidden, drop_path=path, name=f"block{i}", **options)
        x = features[f"stage{i}"] = block(x, train, mask)
    return x, features


def interpolated(
    position: Float[Array | np.ndarray, "batch tokens width"], grid: tuple[int, int], antialias: bool
) -> Float[Array | np.ndarray, "batch others width"]:
    """Interpolates a square of position embeddings, after those of at most two tokens, to another grid of patches.

    Bicubic as in torch: with a = -0.75, or a = -0.5 with antialiasing.
    """
    count = position.shape[1]
    side = math.isqrt(count)
    first = count - side * side  # a square plus one or two is not a square
    if grid == (side, side):
        return position
    wide = jnp.asarray(position).astype(jnp.promote_types(position.dtype, jnp.float32))
    square = wide[:, first:].reshape(1, side, side, -1)
    shape = (1, *grid, square.shape[-1])
    new = jax.image.resize(square, shape, "cubic" if antialias else "cubic-pytorch", antialias=antialias)
    return jnp.concatenate([wide[:, :first], new.reshape(1, -1, shape[-1])], 1).astype(position.dtype)

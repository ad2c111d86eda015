"""The text towers of CLIP and SigLIP."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jtl.checked import whole
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.sizes import Size, check_size
from jtl.nn.text_inputs import beyond, refuse
from jtl.nn.transformer import trunc_normal
from jtl.nn.vision_transformer import stack

WORDS = "words"
"""The name of the module that passes on the embeddings of a text's words."""


class Words(nn.Module):
    """Passes on the embeddings of a text's words, before their positions: a place for an interceptor to change them."""

    @nn.compact
    def __call__(self, y: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Returns y."""
        return y


class TextTower(nn.Module):
    """Tokens with positions through pre-norm blocks, a last normalisation, and one token's linear map.

    Args:
      size: width, depth, heads and hidden width.
      vocabulary: number of tokens.
      positions: the longest text in tokens.
      eps: epsilon of the layer normalisations.
      activation: activation of the MLPs.
      causal: whether a token sees only itself and earlier tokens, and no padding.
      pool: the token that makes `pooled`: the first with this id, the one with the largest id, or the last.
      projection: width of the linear map of that token.
      projection_bias: whether that map has a bias.
      attention_dropout: dropout rate of the attention weights, in training.
    """

    size: Size
    vocabulary: int
    positions: int
    eps: float
    activation: Callable[[Array], Array]
    causal: bool
    pool: int | Literal["largest", "last"]
    projection: int | None
    projection_bias: bool
    attention_dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_size(self.size, attention_dropout=self.attention_dropout)
        whole(1, vocabulary=self.vocabulary, positions=self.positions)
        if self.projection is not None:
            whole(1, projection=self.projection)

    @nn.compact
    def __call__(self, x: dict[str, Any], train: bool) -> dict[str, Array]:
        """Returns the features of {"ids", "mask"} by name."""
        refuse(x)
        ids = jnp.asarray(x["ids"])
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer) or not 1 <= ids.shape[1] <= self.positions:
            raise ValueError(
                f"ids of shape {ids.shape} and dtype {ids.dtype}: "
                f"give whole numbers of shape [batch, tokens], 1 to {self.positions} tokens"
            )
        width, count = self.size.width, ids.shape[1]
        tokens = self.param("token", trunc_normal, (self.vocabulary, width), jnp.float32)
        position = self.param("position", trunc_normal, (self.positions, width), jnp.float32)
        y = Words(name=WORDS)(jnp.take(tokens, beyond(ids), axis=0))
        y, mask = y + position[None, :count], None
        if self.causal:
            seen = jnp.tril(jnp.ones((count, count), bool)).reshape(1, 1, count, count)
            mask = seen & jnp.asarray(x["mask"]).reshape(-1, 1, 1, count)
        y, features = stack(
            y,
            self.size,
            train,
            mask=mask,
            eps=self.eps,
            activation=self.activation,
            attention_dropout=self.attention_dropout,
        )
        y = LayerNorm(self.eps, name="norm")(y)
        token = y[jnp.arange(len(y)), self._place(ids)]
        if self.projection is None:
            return features | {"last": y, "pooled": token}
        dense = nn.Dense(self.projection, self.projection_bias, kernel_init=trunc_normal, name="projection")
        return features | {"last": y, "token": token, "pooled": dense(token)}

    def _place(self, ids: Int[Array, "batch tokens"]) -> Int[Array, "batch"]:
        if self.pool == "last":
            return jnp.full(len(ids), ids.shape[1] - 1)
        return jnp.argmax(ids if self.pool == "largest" else (ids == self.pool), 1)

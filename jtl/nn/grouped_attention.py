"""Attention of causal decoders: several query heads share a key head, and both are rotated by position."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.nn.attention import attend
from jtl.nn.layers import Dense
from jtl.nn.rms_norm import RMSNorm
from jtl.nn.rotary import rotate
from jtl.nn.transformer import trunc_normal


class GroupedAttention(nn.Module):
    """`softmax(R(Q) R(K)ᵀ / √d) V` for each head, with R the rotation by a token's place.

    Args:
      heads: number of heads of the queries.
      groups: number of heads of the keys and values; each serves `heads / groups` neighbouring heads of the queries.
      dim: width of a head.
      bias: whether queries, keys and values have a bias.
      out_bias: whether the output has a bias.
      norm: ε of an RMSNorm on each head's queries and keys before the rotation; None for no normalisation.
      dropout: dropout rate of the attention weights, in training.

    Ainslie et al., GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints, 2023, arXiv
    2305.13245; Dehghani et al., Scaling Vision Transformers to 22 Billion Parameters, 2023, arXiv 2302.05442 (`norm`).
    """

    heads: int
    groups: int
    dim: int
    bias: bool = False
    out_bias: bool = False
    norm: float | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        train: bool,
        mask: Bool[Array, "#batch #heads #tokens tokens"],
        cos: Float[Array, "#batch tokens 1 half"],
        sin: Float[Array, "#batch tokens 1 half"],
    ) -> Float[Array, "batch tokens width"]:
        """Returns one vector per token, from the tokens that the mask lets it see.

        Kernels: `query` [width, heads dim], `key` and `value` [width, groups dim], `out` [heads dim, width].
        """

        def project(name, heads):
            dense = Dense(heads * self.dim, use_bias=self.bias, kernel_init=trunc_normal, name=name)
            return dense(x).reshape(*x.shape[:2], heads, self.dim)

        query, key, value = project("query", self.heads), project("key", self.groups), project("value", self.groups)
        if self.norm is not None:
            query, key = RMSNorm(self.norm, name="query_norm")(query), RMSNorm(self.norm, name="key_norm")(key)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        key, value = (jnp.repeat(y, self.heads // self.groups, axis=2) for y in (key, value))
        rng = self.make_rng("dropout") if train and self.dropout else None
        y = self.attend(query, key, value, mask, rng, None).reshape(*x.shape[:2], -1)
        return Dense(x.shape[-1], use_bias=self.out_bias, kernel_init=trunc_normal, name="out")(y)

    def attend(
        self,
        query: Float[Array, "batch tokens heads dim"],
        key: Float[Array, "batch others heads dim"],
        value: Float[Array, "batch others heads dim"],
        mask: Bool[Array, "#batch #heads #tokens others"],
        rng: jax.Array | None,
        bias: None,
    ) -> Float[Array, "batch tokens heads dim"]:
        """`attend` as a method, for `jtl.fused_attention` to replace."""
        return attend(query, key, value, mask, self.dropout, rng, bias)

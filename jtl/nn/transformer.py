"""The transformer block that vision, text and speech networks share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.nn.attention import attend
from jtl.nn.layer_norm import LayerNorm
from jtl.nn.layers import Dense, DropPath
from jtl.ops import computed_once

trunc_normal = nn.initializers.truncated_normal(0.02)
"""Normal with standard deviation 0.02, truncated at two deviations: the usual initialisation of transformers."""


def exact_gelu(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """`x Φ(x) = x (1 + erf(x / √2)) / 2`, torch's default, in float32 at least.

    `jax.nn.gelu` is by default the tanh approximation, off by 5e-4; otherwise it uses erfc, which takes twice the time
    and keeps more for the gradient.

    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, arXiv 1606.08415.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention, `softmax(Q Kᵀ / √d) V` for each head.

    Args:
      heads: number of heads; they share the width of x.
      key_bias: whether keys have a bias; queries, values and the output always have one.
      dropout: dropout rate of the attention weights, in training.

    Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762.
    """

    heads: int
    key_bias: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        train: bool,
        mask: Bool[Array, "#batch #heads #tokens others"] | None = None,
        source: Float[Array, "batch others width"] | None = None,
        bias: Float[Array, "#batch #heads tokens others"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Returns one vector per token, from the tokens of the source (by default x) where the mask is true.

        `bias` is added to the logits. The kernels of `query`, `key`, `value` and `out` are [width, width].
        """
        width = x.shape[-1]
        source = x if source is None else source

        def project(name, x, bias=True):
            dense = Dense(width, use_bias=bias, kernel_init=trunc_normal, name=name)
            return dense(x).reshape(*x.shape[:2], self.heads, -1)

        rng = self.make_rng("dropout") if train and self.dropout else None
        query, key, value = project("query", x), project("key", source, self.key_bias), project("value", source)
        y = self.attend(query, key, value, mask, rng, bias)
        return Dense(width, kernel_init=trunc_normal, name="out")(y.reshape(x.shape))

    def attend(
        self,
        query: Float[Array, "batch tokens heads dim"],
        key: Float[Array, "batch others heads dim"],
        value: Float[Array, "batch others heads dim"],
        mask: Bool[Array, "#batch #heads #tokens others"] | None,
        rng: jax.Array | None,
        bias: Float[Array, "#batch #heads tokens others"] | None,
    ) -> Float[Array, "batch tokens heads dim"]:
        """`attend` as a method, for `jtl.fused_attention` to replace."""
        return attend(query, key, value, mask, self.dropout, rng, bias)


class Mlp(nn.Module):
    """Two layers on every token, with an activation between them.

    Args:
      hidden: width between the layers.
      dropout: dropout rate after the activation, in training.
      activation: the activation, by default the exact (erf) GELU.
      gated: whether `up` [width, 2 hidden] computes two halves, combined as `activation(first) · second`: SwiGLU with
        `nn.silu`.

    Shazeer, GLU Variants Improve Transformer, 2020, arXiv 2002.05202.
    """

    hidden: int
    dropout: float = 0.0
    activation: Callable[[Array], Array] = exact_gelu
    gated: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], train: bool) -> Array:
        """Returns one vector per token, as wide as x."""
        y = Dense(self.hidden * (2 if self.gated else 1), kernel_init=trunc_normal, name="up")(x)
        first, *second = jnp.split(y, 2, -1) if self.gated else [y]
        y = self.activation(first) * second[0] if self.gated else self.activation(first)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return Dense(x.shape[-1], kernel_init=trunc_normal, name="down")(y)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; or post-norm, `norm(x + attention(x))`, `norm(x + mlp(x))`.

    Args:
      heads: number of attention heads.
      hidden: hidden width of the MLP.
      eps: epsilon of the normalisations.
      dropout: dropout rate after each branch, in training.
      out_dropout: dropout rate after the attention, if it differs from `dropout`.
      drop_path: probability of dropping a branch for an example, in training.
      mlp_dropout: dropout rate within the MLP, in training.
      attention_dropout: dropout rate of the attention weights, in training.
      activation: activation of the MLP.
      gated: whether the MLP is gated.
      key_bias: whether keys have a bias.
      post_norm: whether to normalise after the sum, as in the first transformer and BERT.
      layer_scale: initial value of both branches' factors, one for each channel; None for no factors.

    Touvron et al., Going deeper with Image Transformers, 2021, arXiv 2103.17239 (the factors).
    """

    heads: int
    hidden: int
    eps: float
    dropout: float = 0.0
    drop_path: float = 0.0
    mlp_dropout: float = 0.0
    attention_dropout: float = 0.0
    out_dropout: float | None = None
    activation: Callable[[Array], Array] = exact_gelu
    gated: bool = False
    key_bias: bool = True
    post_norm: bool = False
    layer_scale: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        train: bool,
        mask: Bool[Array, "#batch #heads #tokens tokens"] | None = None,
    ) -> Array:
        """Maps tokens to tokens."""
        attention = Attention(self.heads, self.key_bias, self.attention_dropout, name="attention")
        mlp = Mlp(self.hidden, self.mlp_dropout, self.activation, self.gated, name="mlp")
        out_dropout = self.dropout if self.out_dropout is None else self.out_dropout
        x = self._add(x, lambda y: self._attended(attention, y, train, mask), 1, out_dropout, train)
        return self._add(x, lambda y: mlp(y, train), 2, self.dropout, train)

    def _attended(self, attention: Attention, x: Array, train: bool, mask: Array | None) -> Array:
        """The attention's output for the tokens; subclasses restrict what it sees."""
        return attention(x, train, mask)

    def _add(self, x: Array, branch: Callable[[Array], Array], number: int, dropout: float, train: bool) -> Array:
        norm = LayerNorm(self.eps, name=f"norm{number}")
        y = nn.Dropout(dropout, deterministic=not train)(branch(x if self.post_norm else norm(x)))
        if self.layer_scale is not None:
            start = nn.initializers.constant(self.layer_scale)
            scale = self.param(f"scale{number}", start, (x.shape[-1],), jnp.float32)
            y = y * scale.astype(x.dtype).reshape(1, 1, -1)
        x = computed_once(x + DropPath(self.drop_path)(y, train))
        return norm(x) if self.post_norm else x

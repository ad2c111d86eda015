"""The pre-norm transformer block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.backbones.layers import DropPath

trunc_normal = nn.initializers.truncated_normal(0.02)
"""Normal of deviation 0.02 cut off at two deviations, as transformers are initialised."""


class Attention(nn.Module):
    """Multi-head self-attention, `softmax(Q Kᵀ / √d) V` for each head, with biases.

    Args:
      heads: how many; they share the width of x.

    Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """One value per token; `query`, `key`, `value` and `out` are [width, width]."""
        width = x.shape[-1]

        def project(name):
            return nn.Dense(width, kernel_init=trunc_normal, name=name)(x).reshape(*x.shape[:2], self.heads, -1)

        y = attend(project("query"), project("key"), project("value"))
        return nn.Dense(width, kernel_init=trunc_normal, name="out")(y.reshape(x.shape))


def attend(
    query: Float[Array, "batch tokens heads dim"],
    key: Float[Array, "batch others heads dim"],
    value: Float[Array, "batch others heads dim"],
) -> Float[Array, "batch tokens heads dim"]:
    """`softmax(Q Kᵀ / √d) V` for each head.

    `jax.nn.dot_product_attention` does the same, but its softmax is float32 even for float64 inputs.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=wide)
    weights = jax.nn.softmax(logits / query.shape[-1] ** 0.5, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


class Mlp(nn.Module):
    """Two layers on every token, with the exact (erf) GELU between them.

    Args:
      hidden: width between the layers.
      dropout: after the GELU, in training.
    """

    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], train: bool) -> Array:
        """One value per token, as wide as x."""
        y = nn.gelu(nn.Dense(self.hidden, kernel_init=trunc_normal, name="up")(x), approximate=False)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return nn.Dense(x.shape[-1], kernel_init=trunc_normal, name="down")(y)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Args:
      heads: of the attention.
      hidden: width of the perceptron.
      eps: of the normalisations.
      dropout: after each branch and within the perceptron, in training.
      drop_path: probability of dropping a branch for an example, in training.
    """

    heads: int
    hidden: int
    eps: float
    dropout: float
    drop_path: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], train: bool) -> Array:
        """Tokens to tokens."""
        # The fast variance of flax, E[x²] − E[x]², loses its digits where the mean is large.
        norm = lambda name: nn.LayerNorm(self.eps, use_fast_variance=False, name=name)  # noqa: E731
        y = Attention(self.heads, name="attention")(norm("norm1")(x))
        x = x + self._branch(y, train)
        y = Mlp(self.hidden, self.dropout, name="mlp")(norm("norm2")(x), train)
        return x + self._branch(y, train)

    def _branch(self, y: Array, train: bool) -> Array:
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return DropPath(self.drop_path)(y, train)

"""Root mean square normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.checked import within


class RMSNorm(nn.Module):
    """`y = γ x / √(mean(x²) + ε)`, with the mean over the last axis of each row, in float32 at least.

    Args:
      eps: ε.

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, arXiv 1910.07467.
    """

    eps: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        within("[0, inf)", eps=self.eps)

    @nn.compact
    def __call__(self, x: Float[Array, "*dims channels"]) -> Float[Array, "*dims channels"]:
        """Normalises each row independently."""
        scale = jnp.asarray(self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
        return (normal * scale.astype(wide.dtype)).astype(jnp.result_type(x, scale))

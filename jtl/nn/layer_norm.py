"""Layer normalisation, whose gradient reads its input as few times as possible."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.checked import within


class LayerNorm(nn.Module):
    """`y = γ (x − μ) / √(σ² + ε) + β`, with mean and variance over the last axis of each row, in float32 at least.

    The variance is taken around the mean: flax's fast variance, E[x²] − E[x]², loses its digits if μ is large.

    Args:
      eps: ε.

    Ba et al., Layer Normalization, 2016, arXiv 1607.06450.
    """

    eps: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        within("[0, inf)", eps=self.eps)

    @nn.compact
    def __call__(self, x: Float[Array, "*dims channels"]) -> Float[Array, "*dims channels"]:
        """Normalises each row independently."""
        scale = jnp.asarray(self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32))
        return _shared(jnp.asarray(x), scale, bias, self.eps).astype(jnp.result_type(x, scale, bias))


def _wide(*arrays: Array) -> list[Array]:
    """Casts arrays to float32 at least; gives those over channels as many axes as the first one has."""
    first = arrays[0]
    dtype = jnp.promote_types(first.dtype, jnp.float32)
    return [a.astype(dtype).reshape((1,) * (first.ndim - a.ndim) + a.shape) for a in arrays]


def _mean(x: Array) -> Array:
    return x.mean(-1, keepdims=True)


def _moments(x: Array, eps: float) -> tuple[Array, Array]:
    """Each row's μ and 1 / √(σ² + ε)."""
    (x,) = _wide(x)
    mean = _mean(x)
    return mean, jax.lax.rsqrt(_mean(jnp.square(x - mean)) + eps)


def _affine(x: Array, mean: Array, rate: Array, scale: Array, bias: Array) -> Array:
    x, scale, bias = _wide(x, scale, bias)
    return (x - mean) * rate * scale + bias


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _by_row(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    return _affine(x, *_moments(x, eps), scale, bias)


@_by_row.defjvp
def _derivative(eps: float, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """`Ẋ = r ẋ − mean(r ẋ) − x̂ mean(x̂ r ẋ)`, r being 1 / √(σ² + ε), and `ẏ = γ Ẋ + γ̇ x̂ + β̇`."""
    x, scale, bias = primals
    # Both are stored; otherwise XLA recomputes them for the gradient, and stores x̂ times the cotangent for that of γ.
    mean, rate = jax.lax.optimization_barrier(_moments(x, eps))

    @partial(jax.checkpoint, prevent_cse=False)  # so that x is kept in its dtype, not in float32
    def along(x: Array, mean: Array, rate: Array, scale: Array) -> Array:
        wide, along_x, scale, along_scale, along_bias = _wide(x, tangents[0], scale, *tangents[1:])
        normal, change = (wide - mean) * rate, along_x * rate
        change = change - _mean(change) - normal * _mean(normal * change)
        return change * scale + normal * along_scale + jnp.broadcast_to(along_bias, x.shape)

    return _affine(x, mean, rate, scale, bias), along(x, mean, rate, scale)


_shared = jax.jit(_by_row, static_argnums=3)  # so that jax differentiates and lowers it once for all blocks

"""Attention of queries, keys and values, in the form that is fastest on the platform."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.ops import by_platform

_LOGITS = partial(jnp.einsum, "bqhd,bkhd->bhqk")
_VALUES = partial(jnp.einsum, "bhqk,bkhd->bqhd")


@partial(jax.jit, static_argnames="dropout")  # so that jax differentiates and lowers it once for all blocks
def attend(
    query: Float[Array, "batch tokens heads dim"],
    key: Float[Array, "batch others heads dim"],
    value: Float[Array, "batch others heads dim"],
    mask: Bool[Array, "#batch #heads #tokens others"] | None = None,
    dropout: float = 0.0,
    rng: jax.Array | None = None,
    bias: Float[Array, "#batch #heads tokens others"] | None = None,
) -> Float[Array, "batch tokens heads dim"]:
    """`softmax(Q Kᵀ / √d + B) V` for each head, over the tokens that the mask lets a token see.

    This is `jax.nn.dot_product_attention`, and so the kernel that jax picks for the platform: up to jax 0.12 it is
    always XLA's own, which stores the weights (`jtl.fused_attention` asks for cuDNN's). It is not used on a CPU, which
    has only that kernel, nor for what it cannot do: weights dropped with probability `dropout` if a key `rng` is given,
    and float64, whose softmax it computes in float32.

    In half precision the derivative is jtl's own: it stores one copy of the weights, in half precision. jax's stores
    the logits in float32 too, and multiplies with their gradient in float32.
    """
    kept = None if rng is None else jax.random.bernoulli(rng, 1 - dropout, _shape(query, key))
    if query.dtype in (jnp.bfloat16, jnp.float16):
        return _in_half(dropout, query, key, value, mask, bias, kept)
    return _attended(dropout, query, key, value, mask, bias, kept)


def _shape(query: Array, key: Array) -> tuple[int, int, int, int]:
    return query.shape[0], query.shape[2], query.shape[1], key.shape[1]


def _attended(
    dropout: float, query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None, kept: Array | None
) -> Array:
    if kept is not None or query.dtype == jnp.float64:
        return _products(query, key, value, mask, bias, dropout, kept)
    return by_platform(
        query,
        key,
        value,
        cpu=partial(_products, mask=mask, bias=bias),
        default=partial(jax.nn.dot_product_attention, mask=mask, bias=bias),
    )


def _products(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    dropout: float = 0.0,
    kept: Array | None = None,
) -> Array:
    """Two matrix products for each head, whose operands XLA's CPU backend need not transpose, forwards or backwards.

    The softmax's division comes last, where there are fewer numbers: `(exp(L − max L) V) / Σ exp(L − max L)`.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    query, key, value = query.transpose(0, 2, 1, 3), key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
    logits = _seen(jnp.matmul(query, key, preferred_element_type=wide) / query.shape[-1] ** 0.5, mask, bias)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    if kept is not None:
        weights, total = jnp.where(kept, weights, 0), total * (1 - dropout)
    y = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=wide) / total
    return y.astype(value.dtype).transpose(0, 2, 1, 3)


def _seen(logits: Array, mask: Array | None, bias: Array | None) -> Array:
    """The logits with their bias, set to the lowest number where the mask is false."""
    logits = logits if bias is None else logits + bias
    return logits if mask is None else jnp.where(mask, logits, jnp.finfo(logits.dtype).min)


_in_half = jax.custom_jvp(_attended, nondiff_argnums=(0,))


@_in_half.defjvp
def _derivative(dropout: float, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """`Ẏ = Ṗ V + P V̇`, `Ṗ = P (L̇ − Σ P L̇)`: P and all products, transposed ones too, are in half precision.

    As in the kernels of flash attention, which also round P and the gradient of L before they multiply.
    """
    query, key, value, mask, bias, kept = primals
    along_query, along_key, along_value, _, along_bias, _ = tangents
    scale = query.shape[-1] ** -0.5
    logits = _seen(_LOGITS(query, key, preferred_element_type=jnp.float32) * scale, mask, bias)
    # Stored as it is; otherwise XLA stores its float32 operand.
    weights = jax.lax.optimization_barrier(jax.nn.softmax(logits).astype(value.dtype))

    def dropped(weights: Array) -> Array:
        if kept is None:
            return weights
        # In half precision 1 − dropout would be rounded.
        return jnp.where(kept, weights.astype(jnp.float32) / (1 - dropout), 0).astype(weights.dtype)

    @partial(jax.checkpoint, prevent_cse=False)  # so that only the weights are kept, in their dtype
    def along(weights: Array) -> Array:
        # Scaled in float32, because 1 / √d need not be a power of two.
        change = (_LOGITS(along_query, key) + _LOGITS(query, along_key)).astype(jnp.float32) * scale
        change = change if bias is None else change + along_bias
        change = change if mask is None else jnp.where(mask, change, 0)
        wide = weights.astype(jnp.float32)
        along_weights = (wide * (change - (wide * change).sum(-1, keepdims=True))).astype(value.dtype)
        return _VALUES(dropped(along_weights), value) + _VALUES(dropped(weights), along_value)

    return _VALUES(dropped(weights), value), along(weights)

"""Attention by cuDNN's fused kernel on GPUs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.model import Model
from jtl.nn.grouped_attention import GroupedAttention
from jtl.nn.transformer import Attention
from jtl.transform.intercept import Call, intercepted

_DTYPES = (jnp.bfloat16, jnp.float16)  # the types that cuDNN's kernel takes


def fused_attention(model: Model) -> Model:
    """The same model, with half-precision attention as one cuDNN kernel forward and one backward on an NVIDIA GPU.

    It stores no weights [batch, heads, tokens, tokens], forwards or for the gradient, which recomputes them. Everything
    that the kernel cannot do stays as it was: float32 (train with `make_step(..., dtype=jnp.bfloat16)`), dropout of the
    weights in training, and other platforms. Values and gradients agree to the rounding of the dtype; there is no
    second derivative, which second-order `maml` needs. jtl's own tests only lower it for CUDA, and
    `benchmarks/elsewhere.py` only compiles it for a GPU; neither runs it.

    Args:
      model: one of jtl's transformers, or a model made of them.

    Raises:
      ValueError: when called, if there is no attention.
      NotImplementedError: from jax, on a GPU, if a head's width is not a multiple of 8, or is above 128 (256 from
        Hopper on).

    Dao et al., FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, 2022, arXiv 2205.14135.

    Example:
      >>> import jtl
      >>> size = jtl.backbones.Size(12, 2, 3, 20)
      >>> body = jtl.fused_attention(jtl.backbones.vit(size, image=8, patch=4))
    """
    return intercepted(model, _Attentions, "there is no attention in this model that could be fused")


class _Attentions:
    """Runs each attention by cuDNN if it can, and counts all of them."""

    def __init__(self):
        self.count = 0

    def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        if not isinstance(call.module, Attention | GroupedAttention) or call.method != "attend":
            return run(*args, **kwargs)
        self.count += 1
        query, key, value, mask, rng, bias = args
        if rng is not None or query.dtype not in _DTYPES or jax.default_backend() != "gpu":
            return run(*args, **kwargs)
        return _fused(query, key, value, mask, bias)


@jax.jit  # so that jax differentiates and lowers it once for all blocks
def _fused(
    query: Float[Array, "batch tokens heads dim"],
    key: Float[Array, "batch others heads dim"],
    value: Float[Array, "batch others heads dim"],
    mask: Bool[Array, "#batch #heads #tokens others"] | None,
    bias: Float[Array, "#batch #heads tokens others"] | None,
) -> Float[Array, "batch tokens heads dim"]:
    """`attend` by cuDNN, for odd numbers of tokens too, although jax's gradient needs even ones."""
    tokens, others = query.shape[1], key.shape[1]
    more, further = tokens % 2, others % 2

    def length(n: int) -> Array | None:
        return jnp.full(len(query), n, jnp.int32) if more or further else None

    def filled(a: Array | None) -> Array | None:
        if a is None:
            return None
        a = jnp.broadcast_to(a, (*a.shape[:2], tokens, others))  # jax needs these two axes of a mask in full
        return jnp.pad(a, ((0, 0), (0, 0), (0, more), (0, further)))

    query, key, value = (
        jnp.pad(a, ((0, 0), (0, n), (0, 0), (0, 0))) for a, n in ((query, more), (key, further), (value, further))
    )
    bias = None if bias is None else bias.astype(query.dtype)
    attended = jax.nn.dot_product_attention(
        query,
        key,
        value,
        filled(bias),
        filled(mask),
        query_seq_lengths=length(tokens),
        key_value_seq_lengths=length(others),
        implementation="cudnn",
    )
    return attended[:, :tokens]

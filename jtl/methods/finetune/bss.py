"""Batch spectral shrinkage: suppresses the weakest directions of a batch of features."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl import ops
from jtl.methods.terms import on_views, row_features
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule


def bss(weight: float | Schedule = 1e-3, *, k: int = 1, feature: str = "pooled", name: str = "bss") -> Objective:
    """The term `η Σ_{i ≤ k} σ²_{−i}(F)`, the k smallest squared singular values of the features of a batch.

    Rows that a mask leaves out do not count; the rows of all views and all devices form one matrix. With microbatches
    it is the mean over the parts, each with its own singular values.

    Args:
      weight: η, a number or a function of the step.
      k: number of singular values to suppress, at least 1.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt`.

    Raises:
      ValueError: for a weight that is negative or not finite, or a k below 1; while tracing, for a feature that is
        missing or not a matrix.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.bss()])

    Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer Learning,
    2019.
    """
    if k < 1:
        raise ValueError(f"k={k}: give at least 1")

    def value(views: Views) -> Array:
        rows = [row_features(views, of, feature, "bss") for of in views]
        f, kept = (ops.gather(jnp.concatenate(parts)) for parts in zip(*rows, strict=True))
        return smallest(f, kept, k)

    return on_views(value, weight, name)


def smallest(f: Float[ArrayLike, "batch width"], mask: Any = None, k: int = 1) -> Array:
    """The sum of the k smallest squared singular values of the rows that a mask keeps; of all if there are fewer.

    Its gradient is that of `Σ ‖u_iᵀ F‖²` at fixed left singular vectors: exact, and finite for equal singular values.
    """
    f = jnp.asarray(f)
    kept = ops.kept(mask, len(f))
    f = jnp.where(kept[:, None], f, 0.0)
    u = jnp.linalg.svd(jax.lax.stop_gradient(f), full_matrices=False)[0]
    # In descending order; a masked row adds a 0 at the end, which must not count.
    squares = (jnp.matmul(u.T, f, precision="highest") ** 2).sum(1)
    there = jnp.minimum(kept.sum(), squares.shape[0])
    place = jnp.arange(squares.shape[0])
    return jnp.where((place < there) & (place >= there - k), squares, 0.0).sum()

"""Batch nuclear-norm maximisation: makes predictions on the target certain while they remain diverse."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import clean, logits_of, on_views
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule


def bnm(weight: float | Schedule = 1.0, *, view: str = "target", name: str = "bnm") -> Objective:
    """The alignment `−λ ‖P‖_* / B` of the predictions P [B, classes] of the unlabelled domain.

    Args:
      weight: λ, a number or a function of the step.
      view: the view whose predictions are used.
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight; while tracing, for a missing view.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.bnm()])

    Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm Maximization under Label Insufficient
    Situations, 2020, arXiv 2003.12237.
    """

    def value(views: Views) -> Array:
        return bnm_loss(*logits_of(views, view, name))

    return on_views(value, weight, name)


def bnm_loss(logits: Float[ArrayLike, "rows classes"], mask: Any = None) -> Array:
    """`−‖P‖_* / B`, with P the B predictions that the mask keeps; 0 if it keeps none.

    The gradient of the norm is `U Vᵀ`, over the singular vectors whose values are above rounding errors. It is exact if
    P has full rank, and otherwise the smallest subgradient. The gradient through an SVD would instead divide by
    differences of singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.bnm import bnm_loss
      >>> round(float(bnm_loss(jnp.array([[99.0, 0.0], [0.0, 99.0]]))), 4)
      -1.0
    """
    z, kept = clean(logits, mask)
    p = jnp.where(kept[:, None], jax.nn.softmax(z), 0.0)
    u, s, vt = jnp.linalg.svd(jax.lax.stop_gradient(p), full_matrices=False)
    there = s > s[0] * max(p.shape) * jnp.finfo(p.dtype).eps
    direction = jnp.matmul(jnp.where(there[None], u, 0.0), vt, precision="highest")
    return -(direction * p).sum() / jnp.maximum(kept.sum(), 1)

"""Minimum class confusion: makes predictions on the target confuse classes as little as possible."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import clean, logits_of, on_views
from jtl.methods.views import Views
from jtl.metrics import certainty
from jtl.objective import Objective
from jtl.typing import Schedule


def mcc(
    weight: float | Schedule = 1.0, *, temperature: float = 2.5, view: str = "target", name: str = "mcc"
) -> Objective:
    """The alignment `λ · mcc_loss` of the logits of the unlabelled domain.

    Args:
      weight: λ, a number or a function of the step.
      temperature: T > 0, by which logits are divided.
      view: the view whose logits are used.
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight or temperature; while tracing, for a missing view.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.mcc()])

    Jin et al., Minimum Class Confusion for Versatile Domain Adaptation, 2020, arXiv 1912.03699.
    """
    _check(temperature)

    def value(views: Views) -> Array:
        return mcc_loss(*logits_of(views, view, name), temperature=temperature)

    return on_views(value, weight, name)


def mcc_loss(logits: Float[ArrayLike, "rows classes"], mask: Any = None, *, temperature: float = 2.5) -> Array:
    """`(1/K) Σ_j Σ_{k≠j} C_jk / Σ_l C_jl`, `C = Σ_i w_i p_i p_iᵀ`, `p = softmax(z / T)`, `w ∝ 1 + exp(−H(p))`.

    The weights are held constant; their scale cancels in the rows of C. The loss lies in [0, 1]; it is 0 without rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.mcc import mcc_loss
      >>> round(float(mcc_loss(jnp.zeros((3, 4)))), 4)  # every class is confused with each of the others
      0.75
    """
    _check(temperature)
    z, kept = clean(logits, mask)
    logp = jax.nn.log_softmax(z / temperature)
    w = jax.lax.stop_gradient(jnp.log1p(jnp.exp(-certainty.entropy(z / temperature))))
    # C_jk / Σ_l C_jl = Σ_i q_ij p_ik with q the softmax over rows of log w + log p: exact even if a class underflows.
    q = jax.nn.softmax(jnp.where(kept[:, None], w[:, None] + logp, jnp.finfo(z.dtype).min), axis=0)
    return jnp.where(kept.any(), 1 - (q * jnp.exp(logp)).sum() / z.shape[1], 0.0)


def _check(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: give a positive number")

"""Batch spectral penalisation: keeps a few directions from dominating the features of a domain."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import clean, features_of, on_views
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule


def bsp(weight: float | Schedule = 1e-4, *, k: int = 1, feature: str = "pooled", name: str = "bsp") -> Objective:
    """The alignment `λ Σ_{i ≤ k} σ²_i(F_s) + σ²_i(F_t)`, the k largest squared singular values of each domain.

    It is used together with an adversarial alignment such as `dann`, and keeps the features discriminable.

    Args:
      weight: λ, a number or a function of the step. The authors' code uses 1e-4, as here; the example in their library
        tllib uses 2e-4.
      k: number of singular values, at least 1.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight or k; while tracing, for a missing view or feature.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> critic = jtl.heads.mlp(1, (8,))
      >>> objective = jtl.adapt(net, alignments=[jtl.dann(critic), jtl.alignments.bsp()])

    Chen et al., Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial Domain Adaptation,
    2019.
    """
    if k < 1:
        raise ValueError(f"k={k}: penalise at least 1 singular value")

    def value(views: Views) -> Array:
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        # Without rows of one domain there is no shift, so the other domain is not penalised either.
        return jnp.where(ms.any() & mt.any(), largest(fs, ms, k) + largest(ft, mt, k), 0.0)

    return on_views(value, weight, name)


def largest(f: Float[ArrayLike, "batch width"], mask: Any = None, k: int = 1) -> Array:
    """The sum of the k largest squared singular values of the rows that a mask keeps; of all if there are fewer.

    Its gradient is that of `Σ ‖u_iᵀ F‖²` at fixed left singular vectors: exact, and finite for equal singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.bsp import largest
      >>> round(float(largest(jnp.array([[3.0, 0.0], [0.0, 2.0]]))), 4)
      9.0
    """
    f, _ = clean(f, mask)
    u = jnp.linalg.svd(jax.lax.stop_gradient(f), full_matrices=False)[0][:, :k]
    return (jnp.matmul(u.T, f, precision="highest") ** 2).sum()

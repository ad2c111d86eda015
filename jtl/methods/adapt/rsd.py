"""RSD: makes two domains' features span equal subspaces; for regression, because it keeps the features' scale."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import clean, features_of, on_views
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule

SMALL = 1e-6
"""A singular value below this share of the largest counts as zero."""


def rsd(
    weight: float | Schedule = 1e-3, *, mismatch: float = 0.01, feature: str = "pooled", name: str = "rsd"
) -> Objective:
    """The alignment `λ · rsd_loss` of a feature of `source` and `target`.

    Args:
      weight: λ, a number or a function of the step; the authors use 1e-3.
      mismatch: β, the weight of the bases' mismatch; the authors use 0.01.
      feature: the name of the backbone's feature, [batch, width]. Its width must exceed the number of rows, because
        otherwise the rows span the whole space in both domains.
      name: name of the term.

    Returns:
      An alignment for `adapt`. With microbatches it is the mean over the parts.

    Raises:
      ValueError: for an invalid weight or mismatch; while tracing, for a missing view or feature.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((64,)), head=jtl.heads.linear(1))
      >>> loss = lambda out, y: jtl.losses.mse(out[:, 0], y)
      >>> objective = jtl.adapt(net, loss, [jtl.alignments.rsd()], metrics={})

    Chen et al., Representation Subspace Distance for Domain Adaptation Regression, 2021.
    """
    _check(mismatch)

    def value(views: Views) -> Array:
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        return rsd_loss(fs, ft, ms, mt, mismatch=mismatch)

    return on_views(value, weight, name)


def rsd_loss(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    source_mask: Any = None,
    target_mask: Any = None,
    *,
    mismatch: float = 0.01,
) -> Array:
    """`Σ_i sin θ_i + β ‖ |P| − |Q| ‖_F`, θ the angles between the subspaces that the rows of two domains span.

    With orthonormal bases from `F_sᵀ = U_s Σ_s V_sᵀ`, and likewise for the target, `U_sᵀ U_t = P cos(Θ) Qᵀ`. There are
    as many angles as the smaller of the two dimensions; the loss is 0 if a domain has no rows. The derivatives of
    singular vectors do not exist at equal singular values, so they are smoothed: for singular values a and b with
    `gap = a² − b²`, `1 / gap` is replaced by `gap / (gap² + ε² (a² + b²)²)`, with ε² the machine precision.

    Args:
      source: features of any scale, because only the subspace matters; rows may be zero.
      target: features.
      source_mask: rows of the source that count.
      target_mask: rows of the target that count.
      mismatch: β.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.rsd import rsd_loss
      >>> a, b = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[0.0, 0.0, 5.0]])
      >>> round(float(rsd_loss(a, b)), 3), round(float(rsd_loss(a, 7 * a)), 3)
      (1.0, 0.0)
    """
    _check(mismatch)
    (fs, ms), (ft, mt) = clean(source, source_mask), clean(target, target_mask)
    (us, ns), (ut, nt) = _basis(fs), _basis(ft)
    p, cos, q = _svd(jnp.matmul(us.T, ut, precision="highest"))
    pairs = jnp.arange(len(cos)) < jnp.minimum(ns, nt)
    # sqrt(1 − cos²) of a small angle has no digits left. The sines are the singular values of the part of one basis
    # outside the other's span, which has a further singular value of 1 for each dimension that the other lacks.
    beyond = ut - jnp.matmul(us, jnp.matmul(us.T, ut, precision="highest"), precision="highest")
    sine = _svd(beyond)[1]
    rounding = 10 * jnp.finfo(sine.dtype).eps  # the sines of equal subspaces, whose gradient is arbitrary
    sines = jnp.where(sine > rounding, sine, 0.0).sum() - jnp.maximum(nt - ns, 0)
    rows = max(len(p), len(q))
    p, q = (jnp.pad(jnp.abs(a) * pairs[None], ((0, rows - len(a)), (0, 0))) for a in (p, q))
    gap = ((p - q) ** 2).sum()
    apart = jnp.where(gap > 0, jnp.sqrt(jnp.where(gap > 0, gap, 1.0)), 0.0)
    return jnp.where(ms.any() & mt.any(), sines + mismatch * apart, 0.0)


def _basis(f: Array) -> tuple[Array, Array]:
    """An orthonormal basis of the rows' span, padded with zeros to [width, min(width, rows)], and its dimension."""
    u, s, _ = _svd(f.T)
    there = s > SMALL * jnp.maximum(s[0], SMALL)
    return u * jax.lax.stop_gradient(there.astype(u.dtype))[None], there.sum()


@jax.custom_jvp
def _svd(a: Array) -> tuple[Array, Array, Array]:
    """`U, s, V` of `A = U diag(s) Vᵀ`."""
    u, s, vt = jnp.linalg.svd(a, full_matrices=False)
    return u, s, vt.T


@_svd.defjvp
def _along(primals: Any, tangents: Any) -> Any:
    (a,), (da,) = primals, tangents
    u, s, v = _svd(a)
    top = jnp.where(s[0] > 0, s[0], 1.0)
    w = s / top  # scaled to at most 1, so that ε is relative
    square = w**2
    gap, size = square[None] - square[:, None], jnp.maximum(square[None] + square[:, None], SMALL**2)
    # The gap of equal values is a rounding error, relative to the size of these values: the gap between a small value
    # and the zeros of masked rows is small too, but exact.
    f = gap / (gap**2 + jnp.finfo(s.dtype).eps * size**2) / top
    inverse = w / (w**2 + SMALL**2) / top
    dp = u.T @ da @ v
    ds = jnp.diagonal(dp)
    du = u @ (f * (dp * w[None] + w[:, None] * dp.T)) + (da @ v - u @ dp) * inverse[None]
    dv = v @ (f * (w[:, None] * dp + dp.T * w[None])) + (da.T @ u - v @ dp.T) * inverse[None]
    return (u, s, v), (du, ds, dv)


def _check(mismatch: float) -> None:
    if not 0 <= mismatch < float("inf"):
        raise ValueError(f"mismatch={mismatch}: give a finite number that is not negative")

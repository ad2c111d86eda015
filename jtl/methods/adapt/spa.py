"""SPA: the similarities of rows within each domain should make two graphs with the same spectrum."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl import checked
from jtl.methods.adapt.sliced_wasserstein import quantile_gaps
from jtl.methods.terms import clean, features_of, on_views, own_squared_distances
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule

Similarity = Literal["cosine", "exponential"]


def spa(
    weight: float | Schedule = 1.0,
    *,
    similarity: Similarity = "cosine",
    width: float = 1.5,
    feature: str = "pooled",
    name: str = "spa",
) -> Objective:
    """The alignment `λ · spa_loss` of a feature of `source` and the same feature of `target`.

    The structure of each domain is aligned, and no row of one with any of the other: so it is used together with an
    adversarial alignment and with the self-training of `atdoc`, as in
    `adapt(net, alignments=[cdan(entropy=True), spa(), atdoc(rows, ...)])`. In the authors' code the memory of `atdoc`
    moves by a momentum, 0.3 in their command for Office-Home, where `atdoc` replaces what it stored; and the critic in
    that command is that of `dann`, with weights of entropy.

    Args:
      weight: λ, a number or a function of the step.
      similarity: that of `spa_loss`. The authors' command for Office-Home takes "exponential", which depends on the
        features' scale.
      width: σ, for "exponential".
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`. With microbatches it is the mean over the parts.

    Raises:
      ValueError: for an invalid weight, similarity or width; while tracing, for a missing view or feature.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.cdan(entropy=True), jtl.alignments.spa()])

    Xiao et al., SPA: A Graph Spectral Alignment Perspective for Domain Adaptation, 2023, arXiv 2310.17594.
    """
    _check(similarity, width)

    def value(views: Views) -> Array:
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        return spa_loss(fs, ft, ms, mt, similarity=similarity, width=width)

    return on_views(value, weight, name)


def spa_loss(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    source_mask: Any = None,
    target_mask: Any = None,
    *,
    similarity: Similarity = "cosine",
    width: float = 1.5,
) -> Array:
    """`(Σ_i (λ_i(L_s) − λ_i(L_t))²)^½`, the distance of the sorted eigenvalues of the domains' graph Laplacians.

    `L = I − D⁻¹ A` with `D_ii = Σ_j A_ij` is that of the random walk; `I − D^(−½) A D^(−½)` has the same eigenvalues.
    The similarity of two rows is `A_ij = max(cos(f_i, f_j), 0)`, with that of a row to itself, or
    `exp(−‖f_i − f_j‖ / 2σ²)`, without it. If the domains differ in their number of rows, the sum is
    `n ∫₀¹ (F_s⁻¹(u) − F_t⁻¹(u))² du`, with F the distribution function of the eigenvalues and n the smaller number. The
    loss is 0 if a domain has no rows.

    The authors' code has the singular values of `D⁻¹ A` in the place of its eigenvalues, and keeps negative cosines,
    with which a sum D_ii can be 0 or negative.

    The gradient is that at fixed eigenvectors: exact where eigenvalues differ, and finite where they are equal.

    Args:
      source: features.
      target: features.
      source_mask: the rows of the source that count.
      target_mask: the rows of the target that count.
      similarity: "cosine" or "exponential".
      width: σ.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.spa import spa_loss
      >>> apart, equal = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [3.0, 0.0]])
      >>> round(float(spa_loss(apart, equal)), 4), round(float(spa_loss(apart, 5 * apart)), 4)
      (1.0, 0.0)
    """
    _check(similarity, width)
    (fs, ms), (ft, mt) = clean(source, source_mask), clean(target, target_mask)
    (es, ns), (et, nt) = (_spectrum(f, kept, similarity, width) for f, kept in ((fs, ms), (ft, mt)))
    gaps, shares = quantile_gaps(es[:, None], et[:, None], jnp.arange(len(es)) < ns, jnp.arange(len(et)) < nt)
    n = jnp.minimum(ns, nt).astype(gaps.dtype)
    square = n * (shares[:, None] * gaps**2).sum()
    rounding = n * (10 * jnp.finfo(gaps.dtype).eps) ** 2  # of equal spectra, where the gradient is arbitrary
    return jnp.where(square > rounding, jnp.sqrt(jnp.where(square > rounding, square, 1.0)), 0.0)


def _spectrum(f: Array, kept: Array, similarity: str, width: float) -> tuple[Array, Array]:
    """The eigenvalues of `D^(−½) A D^(−½)`, 1 minus those of L, those of masked rows last; and how many there are."""
    seen = kept[:, None] & kept[None]
    if similarity == "cosine":
        lengths = (f**2).sum(1)
        unit = f * jnp.where(lengths > 0, jax.lax.rsqrt(jnp.where(lengths > 0, lengths, 1.0)), 0.0)[:, None]
        a = jnp.where(seen, jnp.maximum(jnp.matmul(unit, unit.T, precision="highest"), 0.0), 0.0)
        degree = a.sum(1)
        scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1.0)), 0.0)
        s = scale[:, None] * a * scale[None]
    else:
        square, own = own_squared_distances(f), jnp.eye(len(f), dtype=bool)
        a = -jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0) / (2 * width**2)
        seen = seen & ~own
        # Of logarithms, because A itself can underflow where D^(−½) A D^(−½) does not; a row alone has itself there.
        degree = jax.nn.logsumexp(a, axis=1, where=seen | (own & ~seen.any(1)[:, None]))
        s = jnp.where(seen, jnp.exp(jnp.where(seen, a - (degree[:, None] + degree[None]) / 2, 0.0)), 0.0)
    s = s + jnp.diag(jnp.where(kept, 0.0, 3.0).astype(s.dtype))  # above all eigenvalues of rows, which end at 1
    u = jnp.linalg.eigh(jax.lax.stop_gradient(s))[1]
    return (u * jnp.matmul(s, u, precision="highest")).sum(0), kept.sum()


def _check(similarity: str, width: float) -> None:
    checked.positive(width=width)
    if similarity not in ("cosine", "exponential"):
        raise ValueError(f"similarity={similarity!r}: give 'cosine' or 'exponential'")

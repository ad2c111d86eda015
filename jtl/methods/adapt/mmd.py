"""MK-MMD: makes the mean embeddings of two domains equal under several Gaussian kernels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from jtl.methods.terms import clean, features_of, mean_row, on_views, own_squared_distances
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule

ESTIMATORS = ("unbiased", "biased", "linear")


def mmd(
    weight: float | Schedule = 1.0,
    *,
    estimator: str = "unbiased",
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    feature: str = "pooled",
    name: str = "mmd",
) -> Objective:
    """The alignment `λ MMD²` of a feature between `source` and `target`, DAN's term for one layer.

    The kernel is `k(a, b) = Σ_α exp(−‖a − b‖² / (2 α m))` with m the mean squared distance over all pairs of rows that
    count, from both domains, held constant. DAN has one such term for each of several layers: pass several alignments,
    each with its own `feature` and `name`.

    Args:
      weight: λ, a number or a function of the step.
      estimator: "unbiased" leaves out pairs of a row with itself and may be negative; "biased" includes them and is
        never negative; "linear" averages over neighbours in the batch, using each row once, in time linear in the batch
        size.
      scales: α.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight, an unknown estimator or scales that are not positive; while tracing, for a
        missing view or feature.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.mmd(1.0, estimator="biased")])

    Long et al., Learning Transferable Features with Deep Adaptation Networks, 2015, arXiv 1502.02791.
    """
    _check(estimator, scales)

    def value(views: Views) -> Array:
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        return mmd_loss(fs, ft, ms, mt, estimator=estimator, scales=scales)

    return on_views(value, weight, name)


def mmd_loss(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    source_mask: Any = None,
    target_mask: Any = None,
    *,
    estimator: str = "unbiased",
    scales: Sequence[float] = (0.5, 1.0, 2.0),
) -> Array:
    """`E k(s, s') + E k(t, t') − 2 E k(s, t)` by the given estimator, with the kernel of `mmd`.

    It is 0 if a domain has no rows, and for "unbiased" and "linear" if it has fewer than two.

    Raises:
      ValueError: for an unknown estimator, or scales that are not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.mmd import mmd_loss
      >>> f = jnp.array([[0.0], [1.0]])
      >>> float(mmd_loss(f, f, estimator="biased"))
      0.0
    """
    _check(estimator, scales)
    (fs, ms), (ft, mt) = clean(source, source_mask), clean(target, target_mask)
    f, kept, n = jnp.concatenate([fs, ft]), jnp.concatenate([ms, mt]), fs.shape[0]
    # Distances do not depend on the origin, but their rounding does: the mean is the best origin.
    f = jnp.where(kept[:, None], f - jax.lax.stop_gradient(mean_row(f, kept))[None], 0.0)
    m = bandwidth(f, kept)
    if estimator == "linear":
        return _linear(f[:n], f[n:], ms, mt, m, scales)
    return discrepancy(kernel(own_squared_distances(f), m, scales), ms, mt, estimator)


def bandwidth(f: Array, kept: Array) -> Array:
    """The mean of `‖f_i − f_j‖²` over all pairs i, j of rows that count, held constant; 1 if it would be 0.

    `= 2 mean_i ‖f_i − f̄‖²`, in linear time.
    """
    f = jax.lax.stop_gradient(f)
    centred = jnp.where(kept[:, None], f - mean_row(f, kept)[None], 0.0)
    m = 2 * (centred**2).sum() / jnp.maximum(kept.sum(), 1)
    return jnp.where(m > 0, m, 1.0)


def kernel(squared: Array, m: Array, scales: Sequence[float]) -> Array:
    """`Σ_α exp(−d² / (2 α m))`."""
    return jnp.stack([jnp.exp(-squared / (2 * alpha * m)) for alpha in scales]).sum(0)


def discrepancy(
    k: Float[Array, "all all"], source: Bool[Array, " rows"], target: Bool[Array, " others"], estimator: str
) -> Array:
    """The squared MMD from a kernel matrix of both domains, source first, over the rows that count."""
    n = source.shape[0]
    ss, tt, st = k[:n, :n], k[n:, n:], k[:n, n:]
    self_pairs = estimator == "biased"
    least = 1 if self_pairs else 2
    value = _pairs(ss, source, self_pairs) + _pairs(tt, target, self_pairs)
    value -= 2 * _average(st, source[:, None] & target[None])
    return jnp.where((source.sum() >= least) & (target.sum() >= least), value, 0.0)


def _pairs(k: Array, kept: Array, self_pairs: bool) -> Array:
    both = kept[:, None] & kept[None]
    return _average(k, both if self_pairs else both & ~jnp.eye(k.shape[0], dtype=bool))


def _average(k: Array, counts: Array) -> Array:
    return jnp.where(counts, k, 0.0).sum() / jnp.maximum(counts.sum(), 1)


def _linear(fs: Array, ft: Array, ms: Array, mt: Array, m: Array, scales: Sequence[float]) -> Array:
    """`mean_i k(s, s') + k(t, t') − k(s, t') − k(s', t)` over neighbours s, s' and t, t' among the rows that count."""
    pairs = min(fs.shape[0], ft.shape[0]) // 2
    if pairs == 0:
        return jnp.zeros((), fs.dtype)

    def halves(f: Array, kept: Array) -> tuple[Array, Array]:
        first = f[jnp.argsort(~kept, stable=True)[: 2 * pairs]]  # the rows that count, in their order
        return first[::2], first[1::2]

    (s, other_s), (t, other_t) = halves(fs, ms), halves(ft, mt)

    def k(a: Array, b: Array) -> Array:
        return kernel(((a - b) ** 2).sum(1), m, scales)

    h = k(s, other_s) + k(t, other_t) - k(s, other_t) - k(other_s, t)
    there = jnp.arange(pairs) < jnp.minimum(ms.sum(), mt.sum()) // 2
    return _average(h, there)


def _check(estimator: str, scales: Sequence[float]) -> None:
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r}: choose one of {ESTIMATORS}")
    check_scales(scales)


def check_scales(scales: Sequence[float]) -> None:
    """Raises if a kernel has no scales, or scales that are not positive."""
    if not scales or not all(0 < alpha < float("inf") for alpha in scales):
        raise ValueError(f"scales={tuple(scales)}: give positive numbers")

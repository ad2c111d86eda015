"""JMMD: makes the joint distributions of features and predictions equal in two domains."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.methods.adapt.mmd import bandwidth, check_scales, discrepancy, kernel
from jtl.methods.terms import clean, features_of, logits_of, mean_row, on_views, own_squared_distances
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule


def jmmd(
    weight: float | Schedule = 1.0,
    *,
    estimator: str = "unbiased",
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    sigma: float = 0.92,
    features: Sequence[str] = ("pooled",),
    name: str = "jmmd",
) -> Objective:
    """The alignment `λ MMD²` of JAN, whose kernel is the product of kernels of several layers and of the predictions.

    A feature's kernel is `Σ_α exp(−d² / (2 α m))` as in `mmd`. The kernel of the predictions `p = softmax(z)` is
    `exp(−‖p − q‖² / (2 σ²))`; σ = 0.92 is approximately the bandwidth `2 σ²` = 1.68 of the authors' code.

    Args:
      weight: λ, a number or a function of the step.
      estimator: "unbiased" leaves out pairs of a row with itself and may be negative; "biased" includes them.
      scales: α.
      sigma: σ > 0.
      features: names of the backbone's features, each [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight, estimator, σ or scales, or without features; while tracing, for a missing view
        or feature.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.jmmd()])

    Long et al., Deep Transfer Learning with Joint Adaptation Networks, 2017, arXiv 1605.06636.
    """
    _check(estimator, scales, sigma)
    if not features or isinstance(features, str):
        raise ValueError(f"features={features!r}: give a sequence of at least one name")

    def value(views: Views) -> Array:
        layers = [[features_of(views, of, f, name) for of in ("source", "target")] for f in features]
        (zs, ms), (zt, mt) = (logits_of(views, of, name) for of in ("source", "target"))
        pairs = [(source, target) for (source, _), (target, _) in layers]
        return jmmd_loss(pairs, (zs, zt), ms, mt, estimator=estimator, scales=scales, sigma=sigma)

    return on_views(value, weight, name)


def jmmd_loss(
    features: Sequence[tuple[Any, Any]],
    logits: tuple[Any, Any],
    source_mask: Any = None,
    target_mask: Any = None,
    *,
    estimator: str = "unbiased",
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    sigma: float = 0.92,
) -> Array:
    """The squared MMD whose kernel is the product of the kernels of the features and of the predictions.

    It is 0 if a domain has no rows, and for "unbiased" if it has fewer than two.

    Args:
      features: pairs (source, target) of arrays [batch, width].
      logits: logits of the source and of the target.
      source_mask: rows of the source that count.
      target_mask: rows of the target that count.
      estimator: "unbiased" or "biased".
      scales: α of the features' kernels.
      sigma: σ of the predictions' kernel.

    Raises:
      ValueError: for an invalid estimator, σ or scales.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.jmmd import jmmd_loss
      >>> f, z = jnp.array([[0.0], [1.0]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> float(jmmd_loss([(f, f)], (z, z), estimator="biased"))
      0.0
    """
    _check(estimator, scales, sigma)
    (zs, ms), (zt, mt) = clean(logits[0], source_mask), clean(logits[1], target_mask)
    p, kept = jax.nn.softmax(jnp.concatenate([zs, zt])), jnp.concatenate([ms, mt])
    k = jnp.exp(-own_squared_distances(p) / (2 * sigma**2))
    for pair in features:
        f = jnp.concatenate([clean(a, mask)[0] for a, mask in zip(pair, (ms, mt), strict=True)])
        # Distances do not depend on the origin, but their rounding does: the mean is the best origin.
        f = jnp.where(kept[:, None], f - jax.lax.stop_gradient(mean_row(f, kept))[None], 0.0)
        k *= kernel(own_squared_distances(f), bandwidth(f, kept), scales)
    return discrepancy(k, ms, mt, estimator)


def _check(estimator: str, scales: Sequence[float], sigma: float) -> None:
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f"estimator={estimator!r}: choose 'unbiased' or 'biased'")
    check_scales(scales)
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma={sigma}: give a positive number")

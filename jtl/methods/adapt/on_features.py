"""Adaptation of extracted features without training: subspace alignment, CORAL's map, and the proxy A-distance."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from jtl.methods.finetune.on_features import logistic_regression


def subspace_alignment(
    source: Float[ArrayLike, "rows width"], target: Float[ArrayLike, "others columns"], dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """The source as `(X_s − μ_s) P_s P_sᵀ P_t` and the target as `(X_t − μ_t) P_t`, P the first d principal axes.

    Fit any classifier to the first array (`jtl.finetuning.logistic_regression`) and use it on the second.

    Args:
      source: features.
      target: features.
      dim: d, at most the width, and less than the number of rows of either domain.

    Returns:
      Features [rows, d] and [others, d], float64.

    Raises:
      ValueError: for features that are not finite matrices of equal width, or a dimension out of range.

    Example:
      >>> import numpy as np, jtl
      >>> x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
      >>> a, b = jtl.alignments.subspace_alignment(x, x, dim=1)
      >>> bool(np.allclose(a, b)), a.shape
      (True, (4, 1))

    Fernando et al., Unsupervised Visual Domain Adaptation Using Subspace Alignment, 2013.
    """
    xs, xt = pair(source, target)
    most = min(xs.shape[1], len(xs) - 1, len(xt) - 1)
    if not 1 <= dim <= most:
        raise ValueError(f"dim={dim}: these features have between 1 and {most} principal axes")
    xs, xt = xs - xs.mean(0), xt - xt.mean(0)
    ps, pt = (np.linalg.svd(x, full_matrices=False)[2][:dim].T for x in (xs, xt))
    return xs @ ps @ (ps.T @ pt), xt @ pt


def coral_map(
    source: Float[ArrayLike, "rows width"], target: Float[ArrayLike, "others columns"], ridge: float = 1.0
) -> np.ndarray:
    """The source, whitened and re-coloured like the target, `X_s (C_s + r I)^{−1/2} (C_t + r I)^{1/2}`.

    The covariances divide by n − 1. Means are not subtracted; the authors standardise the features first.

    Args:
      source: features.
      target: features.
      ridge: r > 0; 1 in the paper.

    Returns:
      Features [rows, width] of the source, float64; those of the target need no change.

    Raises:
      ValueError: for features that are not finite matrices of equal width, fewer than two rows, or a ridge that is not
        positive.

    Example:
      >>> import numpy as np, jtl
      >>> x = np.array([[-1.0], [1.0]])
      >>> np.round(jtl.alignments.coral_map(x, 3 * x, ridge=1e-9), 4).ravel().tolist()
      [-3.0, 3.0]

    Sun et al., Return of Frustratingly Easy Domain Adaptation, 2015, arXiv 1511.05547.
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}: it is positive, because a covariance of few rows has no inverse")
    xs, xt = pair(source, target)
    own, other = (np.cov(x, rowvar=False).reshape(x.shape[1], -1) + ridge * np.eye(x.shape[1]) for x in (xs, xt))
    return xs @ _power(own, -0.5) @ _power(other, 0.5)


def proxy_a_distance(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others columns"],
    *,
    penalty: float = 1.0,
    seed: int = 0,
) -> float:
    """The proxy A-distance `2 (1 − 2 ε)` of features, ε the error of a domain classifier on held-out rows.

    A logistic regression with the penalty `λ/2 ‖W‖²` is fitted to a random half of each domain, standardised, and ε is
    the mean of its two error rates on the other halves. The distance is 0 if the domains cannot be told apart, and 2 if
    they always can. It is never below 0, because an error rate above one half is due to chance.

    Args:
      source: features.
      target: features.
      penalty: λ.
      seed: seed for the random halves.

    Raises:
      ValueError: for features that are not finite matrices of equal width, or a domain with fewer than four rows.

    Example:
      >>> import numpy as np, jtl
      >>> x = np.random.default_rng(0).normal(size=(40, 3))
      >>> jtl.alignments.proxy_a_distance(x, x + 9)
      2.0

    Ben-David et al., Analysis of Representations for Domain Adaptation, 2006.
    """
    xs, xt = pair(source, target)
    if min(len(xs), len(xt)) < 4:
        raise ValueError(f"{len(xs)} and {len(xt)} rows: the halves of a domain need two rows each")
    draw = np.random.default_rng(seed)
    halves = []
    for x in (xs, xt):
        order = draw.permutation(len(x))
        halves.append((x[order[: len(x) // 2]], x[order[len(x) // 2 :]]))
    seen = np.concatenate([half for half, _ in halves])
    middle, scale = seen.mean(0), seen.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    y = np.repeat([0, 1], [len(half) for half, _ in halves])
    fitted = logistic_regression(jnp.asarray((seen - middle) / scale), jnp.asarray(y), penalty, classes=2)
    wrong = [
        float((np.asarray(fitted(jnp.asarray((rest - middle) / scale))).argmax(1) != domain).mean())
        for domain, (_, rest) in enumerate(halves)
    ]
    return max(0.0, 2 * (1 - 2 * float(np.mean(wrong))))


def pair(source: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """The features of both domains in float64.

    Raises:
      ValueError: for features that are not finite matrices of one width, or fewer than two rows of a domain.
    """
    xs, xt = (np.asarray(x, np.float64) for x in (source, target))
    if xs.ndim != 2 or xt.ndim != 2 or xs.shape[1] != xt.shape[1] or min(len(xs), len(xt)) < 2:
        raise ValueError(f"features of shapes {xs.shape} and {xt.shape}: give two rows or more of one width")
    for what, x in (("source", xs), ("target", xt)):
        if not np.isfinite(x).all():
            raise ValueError(f"the features of {what} are not finite in {int((~np.isfinite(x)).any(1).sum())} rows")
    return xs, xt


def further(rows: Any, width: int) -> np.ndarray:
    """Other rows of features of that width, in float64.

    Raises:
      ValueError: for features that are no finite matrix of the width.
    """
    x = np.asarray(rows, np.float64)
    if x.ndim != 2 or x.shape[1] != width or not np.isfinite(x).all():
        raise ValueError(f"further rows of shape {x.shape}: give finite features [rows, {width}]")
    return x


def _power(a: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(a)
    return (vectors * values**exponent) @ vectors.T

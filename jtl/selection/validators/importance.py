"""Risks on the source, with each row weighted by its density ratio of target to source: IWV, DEV and DEVN."""

import numpy as np
from jaxtyping import Float

from jtl.selection.checked import rows
from jtl.selection.validators.domain_classifier import fitted

PENALTIES = 10.0 ** np.arange(2, -3, -1)
"""Candidates for λ divided by the number of features, from large to small."""


def density_ratio(
    source: Float[np.ndarray, "n dim"],
    target: Float[np.ndarray, "m dim"],
    at: Float[np.ndarray, "k dim"],
    penalty: float = 1.0,
) -> Float[np.ndarray, " k"]:
    """The ratio of the target's density to the source's, `w(f) = (n / m) · P(target | f) / P(source | f)`.

    P is a logistic regression on standardised features with the penalty `½ λ ‖w‖²`, fitted by Newton's method.

    Args:
      source: features of the source's training rows.
      target: features of the target's rows.
      at: features at which to compute the ratio: the source's validation rows. The ratio of rows of `source` itself is
        too small; if there are no other rows, use `cross_fitted_ratio`.
      penalty: λ.

    Raises:
      ValueError: for features that are not finite or differ in width, or a penalty that is not positive.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.validators.importance import density_ratio
      >>> f = np.random.default_rng(0).normal(size=(50, 2))
      >>> density_ratio(f, f, f[:2]).round(6).tolist()
      [1.0, 1.0]
    """
    if not penalty > 0:
        raise ValueError(f"penalty={penalty}: give a number above zero")
    here, there, at = _features(source, target, at)
    return fitted(here, there, [penalty])[0].ratio(at)


def cross_fitted_ratio(
    source: Float[np.ndarray, "n dim"], target: Float[np.ndarray, "m dim"]
) -> Float[np.ndarray, " n"]:
    """The density ratio at each source row, from a classifier that was not fitted on it.

    A classifier recognises the rows that it was fitted on as source rows, the better the more features there are, so
    their ratio falls towards 0 even if the domains are equal. Here each half of both domains is weighted by a
    classifier that was fitted on the other half; its penalty is that of the lowest held-out log loss. One of the
    penalties is infinity, which gives all rows the weight 1, as is right for domains that cannot be told apart.

    Args:
      source: features of the source's validation rows, two or more.
      target: features of the target's rows, two or more.

    Returns:
      The weights. If the ratio is right, their mean is 1, `E w = 1`. If it is near 0, no source row resembles the
      target's, and a weighted score depends on few rows.

    Raises:
      ValueError: for features that are not finite or differ in width, or fewer than two rows.

    Example:
      >>> import numpy as np, jtl
      >>> draw = np.random.default_rng(0)
      >>> w = jtl.selection.validators.cross_fitted_ratio(draw.normal(size=(50, 99)), draw.normal(size=(50, 99)))
      >>> round(float(w.mean()), 1)
      1.0
    """
    here, there = _features(source, target)
    if min(len(here), len(there)) < 2:
        raise ValueError(f"{len(here)} source and {len(there)} target rows: give two or more of each")
    draw = np.random.default_rng(0)  # rows may be in the order of their classes
    halves, others = (np.array_split(draw.permutation(len(x)), 2) for x in (here, there))
    penalties = [np.inf, *(here.shape[1] * PENALTIES)]
    fits = [fitted(here[i], there[j], penalties) for i, j in zip(halves, others, strict=True)]
    losses = [[one.loss(here[halves[1 - k]], there[others[1 - k]]) for one in fits[k]] for k in (0, 1)]
    best, weights = int(np.argmin(np.sum(losses, 0))), np.zeros(len(here))
    for k in (0, 1):
        weights[halves[1 - k]] = fits[k][best].ratio(here[halves[1 - k]])
    return weights


def _features(*given: np.ndarray) -> list[np.ndarray]:
    names = ("source", "target", "at")
    found = [rows(name, features) for name, features in zip(names, given, strict=False)]
    if len({x.shape[1] for x in found}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in zip(names, found, strict=False))
        raise ValueError(f"features of shapes {shapes}: give one width")
    return found


def importance_weighted_risk(losses: Float[np.ndarray, " k"], weights: Float[np.ndarray, " k"]) -> float:
    """The target's risk estimated from source rows, `mean_i w_i ℓ_i`; lower is better.

    Example:
      >>> import numpy as np, jtl
      >>> jtl.selection.validators.importance_weighted_risk(np.array([1.0, 3.0]), np.array([2.0, 0.0]))
      1.0

    Sugiyama et al., Covariate Shift Adaptation by Importance Weighted Cross Validation, 2007.
    """
    losses, weights = _paired(losses, weights)
    return float((weights * losses).mean())


def deep_embedded_validation(
    losses: Float[np.ndarray, " k"],
    weights: Float[np.ndarray, "..."],
    normalise: str = "none",
) -> float:
    """DEV: `mean(wℓ) + η mean(w) − η` with `η = −cov(wℓ, w) / var(w)`, a control variate that reduces the variance.

    Args:
      losses: ℓ, the losses of the source's validation rows.
      weights: w, the weights of these rows, such as `density_ratio(...)`.
      normalise: "max" divides the weights by the largest one (DEVN); "none" leaves them unchanged.

    Returns:
      The risk; lower is better. If all weights are equal it is `mean(wℓ)`.

    Raises:
      ValueError: for lengths that differ, fewer than two rows, numbers that are not finite, or negative weights.

    Example:
      >>> import numpy as np, jtl
      >>> losses, weights = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0])
      >>> jtl.selection.validators.deep_embedded_validation(losses, weights)
      2.0

    You et al., Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation, 2019; DEVN: Musgrave et al.,
    2022, arXiv 2208.07360.
    """
    losses, weights = _paired(losses, weights)
    if normalise == "max":
        weights = weights / max(weights.max(), 1e-300)
    elif normalise != "none":
        raise ValueError(f"normalise={normalise!r}: 'none' (DEV) or 'max' (DEVN)")
    weighted = weights * losses
    variance = weights.var(ddof=1)
    varies = variance > 1e-20 * weights.mean() ** 2  # relative, because the weights of distant domains are all tiny
    eta = -np.cov(weighted, weights)[0, 1] / variance if varies else 0.0
    return float(weighted.mean() + eta * weights.mean() - eta)


def _paired(losses: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    losses, weights = np.asarray(losses, np.float64), np.asarray(weights, np.float64)
    if losses.shape != weights.shape or losses.ndim != 1 or len(losses) < 2:
        raise ValueError(f"losses {losses.shape} and weights {weights.shape}: give one of each for two rows or more")
    if not (np.isfinite(losses).all() and np.isfinite(weights).all()):
        raise ValueError("a loss or a weight is not finite: give finite numbers")
    if not (weights >= 0).all():
        raise ValueError(f"a weight is {weights.min()}: weights are not negative")
    return losses, weights

"""Risks on the source, weighted by how likely each row is under the target: IWV, DEV and DEVN."""

import numpy as np
from jaxtyping import Float


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
      at: features where the ratio is wanted: the source's validation rows.
      penalty: λ.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.validators.importance import density_ratio
      >>> f = np.random.default_rng(0).normal(size=(50, 2))
      >>> density_ratio(f, f, f[:2]).round(6).tolist()
      [1.0, 1.0]
    """
    x = np.concatenate([source, target]).astype(np.float64)
    middle, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)
    x = np.column_stack([(x - middle) / scale, np.ones(len(x))])
    y = np.r_[np.zeros(len(source)), np.ones(len(target))]
    ridge = penalty * np.r_[np.ones(x.shape[1] - 1), 0]
    w = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        slope = x.T @ (p - y) + ridge * w
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-10)
        step = np.linalg.solve(curve, slope)
        w -= step
        if np.abs(step).max() < 1e-10:
            break
    z = np.column_stack([(np.asarray(at, np.float64) - middle) / scale, np.ones(len(at))]) @ w
    return len(source) / len(target) * np.exp(np.clip(z, -500, 500))


def importance_weighted_risk(losses: Float[np.ndarray, " k"], weights: Float[np.ndarray, " k"]) -> float:
    """The target's risk by the source's rows, `mean_i w_i ℓ_i`; low is good.

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
    """DEV: `mean(wℓ) + η mean(w) − η` with `η = −cov(wℓ, w) / var(w)`, a control variate that lowers the variance.

    Args:
      losses: ℓ of the source's validation rows.
      weights: w there, as `density_ratio(...)`.
      normalise: "max" divides the weights by the largest (DEVN).

    Returns:
      The risk; low is good. Where all weights are equal it is `mean(wℓ)`.

    Raises:
      ValueError: for lengths that differ, fewer than two rows, or weights that are negative.

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
    varies = variance > 1e-20 * weights.mean() ** 2  # as a share: the weights of domains far apart are all tiny
    eta = -np.cov(weighted, weights)[0, 1] / variance if varies else 0.0
    return float(weighted.mean() + eta * weights.mean() - eta)


def _paired(losses: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    losses, weights = np.asarray(losses, np.float64), np.asarray(weights, np.float64)
    if losses.shape != weights.shape or losses.ndim != 1 or len(losses) < 2:
        raise ValueError(f"losses {losses.shape} and weights {weights.shape}: give one of each for two rows or more")
    if not (weights >= 0).all():
        raise ValueError(f"a weight is {weights.min()}: weights are not negative")
    return losses, weights

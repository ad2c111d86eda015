"""Optimal transport of extracted features by a linear map, the optimal one between two Gaussians."""

import numpy as np
from jaxtyping import ArrayLike, Float

from jtl.checked import within
from jtl.methods.adapt.on_features import further, pair

LEAST = 1e-7
"""The smallest standard deviation of a direction, as a fraction of the largest: less is rounding of float32."""


def linear_transport_map(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others columns"],
    rows: Float[ArrayLike, "more _"] | None = None,
    *,
    ridge: float = 0.0,
) -> np.ndarray:
    """Maps rows x of the source to `μ_t + A (x − μ_s)`, `A = Σ_s^{−1/2} (Σ_s^{1/2} Σ_t Σ_s^{1/2})^{1/2} Σ_s^{−1/2}`.

    This is Monge's map: of all maps of N(μ_s, Σ_s) to N(μ_t, Σ_t) it moves the rows by the least mean squared distance.
    The mapped source has the target's mean and covariance. `coral_map` gives the source the same covariance by a map
    that is not the least, and leaves the mean. The covariances divide by n.

    If the source varies in fewer directions than there are features, such as with fewer rows than features, the inverse
    is a pseudo-inverse: the mapped source has the target's covariance within these directions and varies in no other. A
    direction counts if its standard deviation is above 1e-7 of the largest. If the rows of the source are not many
    times the features, a map without a ridge fits their noise. The time grows with the cube of the number of features:
    1,000 take seconds.

    Args:
      source: features.
      target: features.
      rows: the source's features to map, such as test rows; None for `source`.
      ridge: r, added to all variances of both domains. It keeps A near the identity in directions in which both
        domains vary little. A small one makes A large in directions in which the target varies and the source does not,
        which shows in further rows.

    Returns:
      Features [rows, width], or [more, width], float64; those of the target need no change.

    Raises:
      ValueError: for features that are not finite matrices of one width, fewer than two rows of a domain, or a ridge
        that is negative or not finite.

    Example:
      >>> import numpy as np, jtl
      >>> x = np.array([[-1.0], [1.0]])
      >>> jtl.alignments.linear_transport_map(x, 3 * x + 5).round(6).ravel().tolist()
      [2.0, 8.0]
      >>> jtl.alignments.linear_transport_map(x, 3 * x + 5, x[1:] / 2).round(6).ravel().tolist()
      [6.5]

    Flamary et al., Concentration Bounds for Linear Monge Mapping Estimation and Optimal Transport Domain Adaptation,
    2019, arXiv 1905.10155.
    """
    within("[0, inf)", ridge=ridge)
    xs, xt = pair(source, target)
    x = xs if rows is None else further(rows, xs.shape[1])
    here, there = (_factor(a, float(ridge)) for a in (xs, xt))
    _, deviations, axes = np.linalg.svd(here, full_matrices=False)
    varies = deviations > LEAST * deviations.max()
    deviations, axes = deviations[varies], axes[varies]
    # In the source's axes the inner root is one of DᵀD, so no product of covariances loses half of the digits.
    _, sizes, turned = np.linalg.svd(there @ (axes.T * deviations[None]), full_matrices=False)
    left = (axes.T / deviations[None]) @ turned.T
    return (x - xs.mean(0)[None]) @ (left * sizes[None]) @ left.T + xt.mean(0)[None]


def _factor(x: np.ndarray, ridge: float) -> np.ndarray:
    """F with `FᵀF = Σ + r I`, of no more rows than twice the width."""
    f = np.asarray(np.linalg.qr((x - x.mean(0)[None]) / np.sqrt(len(x)), mode="r"))
    return np.concatenate([f, np.sqrt(ridge) * np.eye(x.shape[1])]) if ridge else f

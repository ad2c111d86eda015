"""TransRate: the mutual information of features and labels, estimated by coding rates."""

import numpy as np
from jaxtyping import ArrayLike, Float, Num

from jtl.selection.checked import rows, two_classes


def transrate(features: Float[ArrayLike, "examples width"], y: Num[ArrayLike, "_"], *, epsilon: float = 1e-4) -> float:
    """The coding rate, in nats, that the features lose when the class is known, `R(f) − 1/C Σ_c R(f_c)`.

    `R(f) = ½ log det(I + fᵀf / (n ε))`; features are centred over all examples.

    Args:
      features: f.
      y: integer labels.
      epsilon: ε, the squared coding error, in squared units of the features: scores of several models are comparable
        only if their features have the same scale.

    Returns:
      A number in nats; higher is better.

    Raises:
      ValueError: for an ε that is not positive, values that are not finite, or fewer than two classes.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.ranking import transrate
      >>> y = np.arange(30) % 3
      >>> noise = np.random.default_rng(0).normal(size=(30, 4))
      >>> transrate(noise + 3 * np.eye(4)[y], y) > transrate(noise, y)
      True

    Huang et al., Frustratingly Easy Transferability Estimation, 2021, arXiv 2106.09362.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon}: the squared error of coding must be positive")
    f = rows("features", features)
    index, classes = two_classes(y, len(f))
    f = f - f.mean(0)[None]
    return _rate(f, epsilon) - sum(_rate(f[index == c], epsilon) for c in range(classes)) / classes


def _rate(f: np.ndarray, epsilon: float) -> float:
    s = np.linalg.svd(f, compute_uv=False)
    return float(np.log1p(s**2 / (len(f) * epsilon)).sum() / 2)

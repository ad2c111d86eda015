"""H-score: how much of the features' variance is between classes."""

import numpy as np
from jaxtyping import ArrayLike, Float, Num

from jtl.selection.checked import rows, two_classes


def h_score(features: Float[ArrayLike, "examples width"], y: Num[ArrayLike, "_"], *, shrink: bool = True) -> float:
    """The variance between classes relative to the total variance, `tr(cov(f)⁺ cov(E[f | y]))`.

    With shrinkage it is `tr(Σ_δ⁻¹ (1 − δ) cov(E[f | y]))` with `Σ_δ = (1 − δ) cov(f) + δ tr(cov(f))/d · I` and Ledoit
    and Wolf's δ. Without shrinkage the score saturates if there are few examples compared with features. Both
    covariances divide by n.

    Args:
      features: f.
      y: integer labels.
      shrink: False for the score as first published.

    Returns:
      A number in [0, classes − 1]; higher is better.

    Raises:
      ValueError: for features that do not vary, values that are not finite, or fewer than two classes.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.ranking import h_score
      >>> y = np.arange(30) % 3
      >>> round(h_score(np.eye(3)[y], y, shrink=False), 4)
      2.0

    Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer Learning, 2019, arXiv 2212.10082;
    Ibrahim et al., Newer is not always better, 2021, arXiv 2110.06893 (shrinkage).
    """
    f = rows("features", features)
    index, classes = two_classes(y, len(f))
    f = f - f.mean(0)[None]
    if not f.any():
        raise ValueError("features do not vary: all rows are equal")
    one_hot = np.eye(classes)[index]
    between = (one_hot @ ((one_hot.T @ f) / one_hot.sum(0)[:, None])) / np.sqrt(len(f))
    covariance = f.T @ f / len(f)
    delta = shrinkage(f) if shrink else 0.0
    if delta > 0:
        covariance = (1 - delta) * covariance + delta * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse = np.linalg.pinv(covariance, hermitian=True)
    return float((1 - delta) * np.einsum("id,de,ie->", between, inverse, between))


def shrinkage(f: np.ndarray) -> float:
    """Ledoit and Wolf's δ for centred rows: `min(1, Σ_i ‖f_i f_iᵀ − S‖² / n² / ‖S − tr(S)/d I‖²)`.

    Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
    """
    n, d = f.shape
    s = f.T @ f / n
    distance = float((s**2).sum() - np.trace(s) ** 2 / d)
    noise = float(((f**2).sum(1) ** 2).sum() / n - (s**2).sum()) / n
    return min(max(noise / distance, 0.0), 1.0) if distance > 0 else 0.0

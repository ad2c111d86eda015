"""Scores of the target's predictions: certainty, diversity, information maximisation, nuclear norm."""

import numpy as np
from jaxtyping import Float, Shaped

from jtl.selection.checked import labels, rows


def certainty(logits: Float[np.ndarray, "..."]) -> float:
    """The negative mean entropy, `mean_i Σ_c p_ic log p_ic`; high if predictions are certain.

    A model that assigns every row to one class has the best score, so look at `information_maximisation` too.

    Example:
      >>> import numpy as np, jtl
      >>> round(jtl.selection.validators.certainty(np.zeros((3, 2), np.float32)), 4)
      -0.6931
    """
    p, logp = probabilities(logits)
    return float(np.sum(p * logp, axis=1).mean())


def diversity(logits: Float[np.ndarray, "..."]) -> float:
    """The entropy of the mean prediction, `H(mean_i p_i)`; high if all classes are predicted equally often.

    Example:
      >>> import numpy as np, jtl
      >>> round(jtl.selection.validators.diversity(np.array([[50.0, 0.0], [0.0, 50.0]])), 4)
      0.6931
    """
    mean = probabilities(logits)[0].mean(0)
    return float(-np.sum(mean * np.log(np.maximum(mean, 1e-300))))


def information_maximisation(logits: Float[np.ndarray, "..."]) -> float:
    """The mutual information of rows and predictions, `H(mean_i p_i) − mean_i H(p_i)`, in [0, ln C].

    Example:
      >>> import numpy as np, jtl
      >>> round(jtl.selection.validators.information_maximisation(np.array([[50.0, 0.0], [0.0, 50.0]])), 4)
      0.6931

    Musgrave et al., Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain Adaptation, 2022,
    arXiv 2208.07360.
    """
    return diversity(logits) + certainty(logits)


def nuclear_norm(logits: Float[np.ndarray, "..."]) -> float:
    """The nuclear norm of the predictions, `‖P‖_* / √(N min(N, C))`, in (0, 1]; high if they are certain and diverse.

    Example:
      >>> import numpy as np, jtl
      >>> round(jtl.selection.validators.nuclear_norm(np.array([[50.0, 0.0], [0.0, 50.0]])), 4)
      1.0

    Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm Maximization, 2020, arXiv 2003.12237.
    """
    p = probabilities(logits)[0]
    return float(np.linalg.svd(p, compute_uv=False).sum() / np.sqrt(len(p) * min(p.shape)))


def accuracy(logits: Float[np.ndarray, "..."], y: Shaped[np.ndarray, " rows"]) -> float:
    """`mean_i 1[argmax_c z_ic = y_i]`, for the source's validation rows, or as an oracle for the target's rows.

    Raises:
      ValueError: for logits that are not finite, or labels that are not one integer per row.

    Example:
      >>> import numpy as np, jtl
      >>> jtl.selection.validators.accuracy(np.eye(2), np.array([0, 0]))
      0.5
    """
    z = rows("logits", logits)
    return float((z.argmax(1) == labels(y, len(z))).mean())


def probabilities(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The softmax of finite logits [rows, classes] and its logarithm, in float64."""
    z = rows("logits", logits)
    z = z - z.max(1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(1, keepdims=True))
    return np.exp(logp), logp

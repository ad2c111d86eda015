"""Reverse validation: a classifier of the target's pseudo-labels, tested on the source."""

import numpy as np
from jaxtyping import Float, Shaped


def reverse_validation(
    target: Float[np.ndarray, "m dim"],
    logits: Float[np.ndarray, "m classes"],
    source: Float[np.ndarray, "n dim"],
    y: Shaped[np.ndarray, " n"],
    penalty: float = 1.0,
) -> float:
    """The accuracy on the source of a ridge classifier of the target's features, whose labels are the predictions.

    The classifier is `argmin_W ‖X W − Y‖² + λ ‖W‖²` on standardised features with an intercept, Y one-hot.

    Args:
      target: features of the target's rows.
      logits: predictions there.
      source: features of the source's validation rows.
      y: labels there.
      penalty: λ.

    Example:
      >>> import numpy as np, jtl
      >>> f = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
      >>> jtl.selection.validators.reverse_validation(f, 9 * f, f, np.array([0, 0, 1, 1]))
      1.0

    Zhong et al., Cross Validation Framework to Choose amongst Models and Datasets for Transfer Learning, 2010; Ganin et
    al., 2016, arXiv 1505.07818, section 5.1.2.
    """
    x = np.asarray(target, np.float64)
    middle, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)
    x = (x - middle) / scale
    labels = np.eye(np.shape(logits)[1])[np.argmax(logits, axis=1)]
    offset = labels.mean(0)  # the intercept, because the features' means are 0
    w = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (labels - offset))
    scores = (np.asarray(source, np.float64) - middle) / scale @ w + offset
    return float((scores.argmax(1) == np.asarray(y)).mean())

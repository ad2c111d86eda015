"""Reverse validation: a classifier trained on the target's pseudo-labels is tested on the source."""

import numpy as np
from jaxtyping import Float, Shaped

from jtl.selection.checked import labels, rows


def reverse_validation(
    target: Float[np.ndarray, "m dim"],
    logits: Float[np.ndarray, "m classes"],
    source: Float[np.ndarray, "n dim"],
    y: Shaped[np.ndarray, " n"],
    penalty: float = 1.0,
) -> float:
    """The accuracy on the source of a ridge classifier that is fitted to the target's features and pseudo-labels.

    The classifier is `argmin_W ‖X W − Y‖² + λ ‖W‖²` on standardised features with an intercept, Y one-hot.

    Args:
      target: features of the target's rows.
      logits: logits of the target's rows, from which the pseudo-labels are taken.
      source: features of the source's validation rows.
      y: labels of the source's validation rows.
      penalty: λ.

    Raises:
      ValueError: for arrays that are not finite or whose rows or widths do not fit, or labels that are not integers.

    Example:
      >>> import numpy as np, jtl
      >>> f = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
      >>> jtl.selection.validators.reverse_validation(f, 9 * f, f, np.array([0, 0, 1, 1]))
      1.0

    Zhong et al., Cross Validation Framework to Choose amongst Models and Datasets for Transfer Learning, 2010; Ganin et
    al., 2016, arXiv 1505.07818, section 5.1.2.
    """
    x, here = rows("target", target), rows("source", source)
    z, y = rows("logits", logits, len(x)), labels(y, len(here))
    if x.shape[1] != here.shape[1]:
        raise ValueError(f"target of shape {x.shape} and source of shape {here.shape}: give features of one width")
    middle, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)
    x = (x - middle) / scale
    pseudo = np.eye(z.shape[1])[z.argmax(1)]
    offset = pseudo.mean(0)  # the intercept, because the features' means are 0
    w = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (pseudo - offset))
    scores = (here - middle) / scale @ w + offset
    return float((scores.argmax(1) == y).mean())

"""Scores of a source classifier's own predictions: LEEP, and the conditional entropy of labels."""

import numpy as np
from jaxtyping import ArrayLike, Float, Num

from jtl.selection.checked import numbered, rows


def leep(probabilities: Float[ArrayLike, "examples source"], y: Num[ArrayLike, "_"]) -> float:
    """The log expected empirical prediction, `mean_i log Σ_z P(y_i | z) θ_iz`, `P(y, z) = 1/n Σ_{i: y_i = y} θ_iz`.

    Args:
      probabilities: θ, the source classifier's distributions over its own classes; each row sums to 1.
      y: target labels.

    Returns:
      A number in nats, at most 0; higher is better.

    Raises:
      ValueError: for rows that are not distributions (give probabilities, not logits), or labels that do not fit them.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.ranking import leep
      >>> leep(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 1, 0])) == 0  # each source class holds one label
      True

    Nguyen et al., LEEP: A New Measure to Evaluate Transferability of Learned Representations, 2020, arXiv 2002.12462.
    """
    theta = rows("probabilities", probabilities)
    off = np.abs(theta.sum(1) - 1).max()
    if theta.min() < 0 or off > 1e-2:  # half precision rounds a sum of 1000 classes by less
        raise ValueError(
            f"probabilities reach down to {theta.min():.4g} and rows miss the sum 1 by up to {off:.4g}: give softmax(z)"
        )
    index, classes = numbered(y, len(theta))
    joint = np.eye(classes)[index].T @ theta / len(theta)
    marginal = joint.sum(0)
    given_z = joint / np.where(marginal > 0, marginal, 1.0)
    return float(np.log((given_z[index] * theta).sum(1)).mean())


def nce(z: Num[ArrayLike, "_"], y: Num[ArrayLike, "_"]) -> float:
    """The negative conditional entropy `−H(Y | Z) = Σ_{y,z} P(y, z) log P(y | z)` of target labels given source labels.

    Args:
      z: source labels, such as the classes that the source classifier predicts.
      y: target labels.

    Returns:
      A number in nats, at most 0; higher is better.

    Raises:
      ValueError: for labels that are not integers, or arrays of different lengths.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.ranking import nce
      >>> round(nce(np.zeros(4, int), np.array([0, 0, 1, 1])), 4)
      -0.6931

    Tran et al., Transferability and Hardness of Supervised Classification Tasks, 2019, arXiv 1908.08142.
    """
    source, sources = numbered(z, np.asarray(z).size, "z")
    if not source.size:
        raise ValueError("z is empty: give one source label for each example")
    target, targets = numbered(y, source.size)
    joint = np.zeros((targets, sources))
    np.add.at(joint, (target, source), 1.0 / source.size)
    given_z = joint / joint.sum(0)[None]
    return float((joint * np.log(np.where(joint > 0, given_z, 1.0))).sum())

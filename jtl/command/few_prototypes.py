"""Computes a head from the mean features of each class, and how well it predicts held-out examples; in NumPy."""

import numpy as np

from jtl.command.scores import softmax

SCALES = 2.0 ** np.arange(0, 8.5, 0.5)
"""Candidates for the logit at cosine 1, for a feature of mean norm."""
ONE_SHOT = 10.0
"""The scale if no class has a second example to choose it by: the initial scale of P>M>F (arXiv 2204.07305) and
Meta-Baseline (arXiv 2003.04390)."""


def closed_form(z: np.ndarray, y: np.ndarray, way: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel [width, way] and bias [way] whose logits are `s z · c_k / ‖c_k‖`, with c_k the mean of class k.

    The largest logit depends on the cosine alone, which is more accurate than the distance on pretrained features.

    Args:
      z: features [examples, width]; each class has at least one example.
      y: labels [examples].
      way: the number of classes.
      scale: s.

    Hu et al., Pushing the Limits of Simple Pipelines for Few-Shot Learning, 2022, arXiv 2204.07305.
    """
    c = np.stack([z[y == k].astype(np.float64).mean(0) for k in range(way)])
    return (scale * _unit(c).T).astype(np.float32), np.zeros(way, np.float32)


def held_out(z: np.ndarray, y: np.ndarray, way: int, first: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """Returns the scale of the logits, and the logits of each example by the prototypes of all others, [examples, way].

    The scale minimises the cross-entropy of these logits, with targets `(n + 1) / (n + 2)` instead of 1 (Platt,
    Probabilistic Outputs for Support Vector Machines, 1999), so that it stays finite if all are right. An example that
    is alone in its class gets NaN, because the class has no prototype without it. An example is left out with all its
    copies, and only the first of several copies counts for the scale.

    Args:
      z: features [examples, width].
      y: labels [examples].
      way: the number of classes.
      first: for each example, the index of the first equal one, [examples]; None if all differ.

    Raises:
      ValueError: for features that are not finite, or if the means of all classes have the same direction.
    """
    if not np.isfinite(z).all():
        raise ValueError(f"the features of example {int(np.argmin(np.isfinite(z).all(1)))} are not finite")
    z, rows = z.astype(np.float64), np.arange(len(z))
    first = rows if first is None else first
    once = distinct(first)
    member = np.eye(way)[y]
    sums, own = member.T @ z, np.zeros_like(z)
    np.add.at(own, first, z)  # the sum of an example and its copies, in the place of the first
    c = _unit(sums)
    if (c @ c.T).min() > 1 - 1e-9 or not sums.any():
        raise ValueError("the mean features of all classes are the same: these weights cannot tell the classes apart")
    along, alone = z @ c.T, np.bincount(y[once], minlength=way)[y] < 2
    along[rows, y] = (z * _unit(sums[y] - own[first])).sum(1)
    along[alone] = np.nan
    size, judged = np.linalg.norm(z[once], axis=1).mean(), once & ~alone
    if not judged.any():
        return float(ONE_SHOT / size), along
    off = 1 / (judged.sum() + 2) / (way - 1)
    target = np.where(member[judged] > 0, 1 - off * (way - 1), off)
    losses = [-(target * np.log(softmax(s / size * along[judged]) + 1e-300)).sum() for s in SCALES]
    scale = float(SCALES[int(np.argmin(losses))] / size)
    return scale, scale * along


def distinct(first: np.ndarray) -> np.ndarray:
    """Returns which examples differ from all earlier ones, bool [examples]."""
    return first == np.arange(len(first))


def halves(y: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    """Assigns the examples of a class to half 0 or 1 by turns, so that both halves have every class of two or more.

    Args:
      y: labels [examples].
      first: see `held_out`; copies are in the same half.
    """
    first = np.arange(len(y)) if first is None else first
    found = np.zeros(len(y), int)
    for k in np.unique(y):
        rows = np.flatnonzero((y == k) & distinct(first))
        found[rows] = np.arange(len(rows)) % 2
    return found[first]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

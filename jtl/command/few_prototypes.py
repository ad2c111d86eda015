"""A head from the mean features of each class, and how well examples are named by the others; in NumPy."""

import numpy as np

from jtl.command.scores import softmax

SCALES = 2.0 ** np.arange(0, 8.5, 0.5)
"""Candidates for the logit of the cosine 1, at a feature of mean norm."""
ONE_SHOT = 10.0
"""It, where no class has a second example to choose it by: where that of P>M>F (2204.07305) and Meta-Baseline
(2003.04390) starts."""


def closed_form(z: np.ndarray, y: np.ndarray, way: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [width, way] and bias [way] whose logits are `s z · c_k / ‖c_k‖`, c_k the mean of class k.

    Which is the largest depends on the cosine alone; on pretrained features it is more accurate than the distance.

    Args:
      z: features [examples, width]; each class has one or more.
      y: labels [examples].
      way: the number of classes.
      scale: s.

    Hu et al., Pushing the Limits of Simple Pipelines for Few-Shot Learning, 2022, arXiv 2204.07305.
    """
    c = np.stack([z[y == k].astype(np.float64).mean(0) for k in range(way)])
    return (scale * _unit(c).T).astype(np.float32), np.zeros(way, np.float32)


def held_out(z: np.ndarray, y: np.ndarray, way: int, first: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """The scale of the logits, and the logits of each example by the prototypes of all others, [examples, way].

    The scale is that of the lowest cross-entropy of these logits, with targets `(n + 1) / (n + 2)` in place of 1
    (Platt, Probabilistic Outputs for Support Vector Machines, 1999), so that it is finite where all are right. An
    example that is alone in its class has NaN, because without it the class has no prototype. An example is left out
    with all its copies, and of copies the first alone counts in the scale.

    Args:
      z: features [examples, width].
      y: labels [examples].
      way: the number of classes.
      first: of each example the place of the first one that equals it, [examples]; None where all differ.

    Raises:
      ValueError: for features that are not finite, or where the means of all classes have one direction.
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
    """Which examples equal none before them, bool [examples]."""
    return first == np.arange(len(first))


def halves(y: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    """The half of each example, 0 or 1: those of a class by turns, so that both have every class of two or more.

    Args:
      y: labels [examples].
      first: as in `held_out`; copies are in one half.
    """
    first = np.arange(len(y)) if first is None else first
    found = np.zeros(len(y), int)
    for k in np.unique(y):
        rows = np.flatnonzero((y == k) & distinct(first))
        found[rows] = np.arange(len(rows)) % 2
    return found[first]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

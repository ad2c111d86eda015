"""Metrics over all rows at once, on the host, for the result of `jtl.collect`: they are not sums over batches."""

from typing import Any

import numpy as np


def auroc(scores: Any, y: Any) -> float:
    """The area under the ROC curve, `P(s⁺ > s⁻) + P(s⁺ = s⁻) / 2` for a positive's score s⁺ and a negative's s⁻.

    With several classes or labels, the area of each against the rest is averaged over those that have both positives
    and negatives.

    Args:
      scores: [rows] or [rows, 1], of the positive class, for labels 0 and 1; [rows, classes] for integer labels; for
        several labels per row, [rows, labels].
      y: integer labels [rows], or 0 and 1 [rows, labels], with -1 for unknown labels, which do not count.

    Raises:
      ValueError: for shapes that do not fit, a score that is NaN, a label that is not a class, or if no class has both
        positives and negatives.

    Example:
      >>> import jtl
      >>> jtl.metrics.auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
      0.75

    Hanley and McNeil, The meaning and use of the area under a ROC curve, 1982.
    """
    return _one_against_rest(scores, y, _area)


def average_precision(scores: Any, y: Any) -> float:
    """`Σ_k (recall_k − recall_{k−1}) precision_k` over the distinct scores, from the highest.

    Args:
      scores: as in `auroc`; with several labels per row the result is their mean average precision.
      y: likewise.

    Raises:
      ValueError: as in `auroc`.

    Example:
      >>> import jtl
      >>> round(jtl.metrics.average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
      0.8333
    """
    return _one_against_rest(scores, y, _average)


def pearson(a: Any, b: Any) -> float:
    """The linear correlation of two columns, `Σ (a − ā)(b − b̄) / √(Σ (a − ā)² Σ (b − b̄)²)`, in [-1, 1].

    Raises:
      ValueError: for shapes that differ, a NaN, or a constant column.

    Example:
      >>> import jtl
      >>> round(jtl.metrics.pearson([1, 2, 3], [1, 2, 4]), 4)
      0.982
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"columns of shapes {a.shape} and {b.shape}: give two of one length")
    _no_nan("a column", a, b)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    if not norm > 0:
        raise ValueError("a column holds one value alone, of which there is no correlation")
    return float((a * b).sum() / norm)


def spearman(a: Any, b: Any) -> float:
    """The correlation of the ranks of two columns, `pearson(r(a), r(b))`; equal values have the mean of their ranks.

    Raises:
      ValueError: as in `pearson`.

    Example:
      >>> import jtl
      >>> jtl.metrics.spearman([1, 2, 3], [10, 20, 400])
      1.0
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    _no_nan("a column", a, b)
    return pearson(_ranks(a), _ranks(b))


def _no_nan(what: str, *arrays: np.ndarray) -> None:
    """NaN has no rank: it would be sorted as the highest value."""
    for a in arrays:
        nan = np.flatnonzero(np.isnan(a).reshape(len(a), -1).any(1)) if a.ndim else np.zeros(0, int)
        if len(nan):
            raise ValueError(f"{what} is NaN in {len(nan)} of {len(a)} rows, the first {nan[0]}: leave those rows out")


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values have the mean of their ranks."""
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place.reshape(x.shape)]


def _one_against_rest(scores: Any, y: Any, judge: Any) -> float:
    scores, y = np.asarray(scores, np.float64), np.asarray(y)
    several = y.ndim == 2 and y.shape == scores.shape
    if not several and (y.ndim != 1 or scores.shape[:1] != y.shape or scores.ndim > 2):
        raise ValueError(f"scores of shape {scores.shape} beside y of shape {y.shape}: give one row of each")
    _no_nan("a score", scores)
    columns = scores if scores.ndim == 2 else scores[:, None]
    one = columns.shape[1] == 1  # the scores of the positive class, which is 1
    _labels(np.where(several & (y == -1), 0, y), 2 if one or several else columns.shape[1])
    true = y if several else y[:, None] == (1 if one else np.arange(columns.shape[1]))
    pairs = [(s[t >= 0], t[t >= 0] > 0) for s, t in zip(columns.T, true.T, strict=True)]
    found = [judge(s, t) for s, t in pairs if 0 < t.sum() < len(t)]
    if not found:
        raise ValueError("no class has both positives and negatives among these labels")
    return float(np.mean(found))


def _labels(y: np.ndarray, count: int) -> None:
    """Refuses a label outside 0 … count − 1, naming the first: it would be a negative of every class."""
    bad = np.argwhere(~((y >= 0) & (y < count) & (y == np.floor(y))))
    if len(bad):
        at = tuple(map(int, bad[0]))
        told = "0 or 1" if count == 2 else f"a whole number from 0 to {count - 1}"
        raise ValueError(f"y{list(at)} is {y[at]}: beside these scores a label is {told}")


def _area(scores: np.ndarray, positive: np.ndarray) -> float:
    p = positive.sum()
    return float((_ranks(scores)[positive].sum() - p * (p + 1) / 2) / (p * (len(positive) - p)))


def _average(scores: np.ndarray, positive: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(positive[order])
    last = np.r_[np.flatnonzero(np.diff(scores)), len(scores) - 1]  # the last place of each distinct score
    recall, precision = hits[last] / hits[-1], hits[last] / (last + 1)
    return float((np.diff(np.r_[0.0, recall]) * precision).sum())

"""The scores of predicted numbers on labelled examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NumberScores:
    """Scores of a regression; errors are in the unit of the labels.

    Args:
      predicted: the prediction for each example, float64 [examples].
      labels: the true numbers, float64 [examples].
      name: the name of the numbers, such as their column.
      mean: the mean of the training labels, whose error as a constant prediction is the baseline; None if unknown.
    """

    predicted: np.ndarray
    labels: np.ndarray
    name: str
    mean: float | None = None

    @property
    def errors(self) -> np.ndarray:
        """Prediction minus label, [examples]."""
        return self.predicted - self.labels

    @property
    def rmse(self) -> float:
        """The root of the mean squared error."""
        return float(np.sqrt(np.mean(self.errors**2)))

    @property
    def mae(self) -> float:
        """The mean absolute error."""
        return float(np.abs(self.errors).mean())

    @property
    def r2(self) -> float | None:
        """The coefficient of determination, `1 − Σ (y − ŷ)² / Σ (y − ȳ)²`; None if all labels are equal."""
        if np.ptp(self.labels) == 0:  # their mean may be rounded
            return None
        return 1 - float((self.errors**2).sum()) / float(((self.labels - self.labels.mean()) ** 2).sum())

    @property
    def pearson(self) -> float | None:
        """Pearson's correlation of predictions and labels; None if either are all equal."""
        return correlation(self.predicted, self.labels)

    @property
    def spearman(self) -> float | None:
        """Spearman's correlation, which is Pearson's of the ranks; None if either are all equal."""
        return correlation(ranks(self.predicted), ranks(self.labels))

    @property
    def baseline(self) -> "NumberScores | None":
        """The scores of the training labels' mean as the prediction for every example; None if it is unknown."""
        if self.mean is None:
            return None
        return NumberScores(np.full(len(self.labels), self.mean), self.labels, self.name)

    @property
    def told(self) -> str:
        """The result in words."""
        base = self.baseline
        more = "" if base is None else f" (by the training mean {base.rmse:.4g})"
        return f"RMSE {self.rmse:.4g} in the unit of {self.name!r}{more}, of {len(self.labels)}"

    @property
    def ranking(self) -> dict[str, float]:
        """The number that ranks runs, by name."""
        return {"RMSE": self.rmse}

    def rows(self) -> list[tuple[str, Any, Any]]:
        """Returns (score, its value, the value of the baseline) of each score; "-" for what does not exist."""
        base, found = self.baseline, []
        for name, score in (("RMSE", "rmse"), ("MAE", "mae"), ("R²", "r2")):
            found.append((name, getattr(self, score), None if base is None else getattr(base, score)))
        found += [("Spearman's correlation", self.spearman, None), ("Pearson's correlation", self.pearson, None)]
        return [(name, "-" if own is None else own, "-" if by is None else by) for name, own, by in found]

    def lines(self) -> list[str]:
        """Returns the scores in words."""
        shown = [(name, _shown(own), _shown(by)) for name, own, by in self.rows()]
        return [f"{name}: {own}" + ("" if by == "-" else f", by the training mean {by}") for name, own, by in shown]

    def worst(self) -> list[int]:
        """Returns the indices of the examples, the largest absolute error first."""
        return np.argsort(-np.abs(self.errors), kind="stable").tolist()

    def numbers(self) -> dict[str, Any]:
        """Returns all scores as JSON-compatible values."""
        base = self.baseline
        own = {"rmse": self.rmse, "mae": self.mae, "r2": self.r2, "spearman": self.spearman, "pearson": self.pearson}
        by_mean = None if base is None else {"prediction": self.mean, "rmse": base.rmse, "mae": base.mae, "r2": base.r2}
        return {**own, "count": len(self.labels), "training mean": by_mean}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def scored_numbers(
    outputs: np.ndarray, labels: np.ndarray, names: Sequence[str], about: Mapping[str, Any]
) -> NumberScores:
    """Computes the scores of outputs [examples, 1].

    Args:
      outputs: predictions in the unit of the labels.
      labels: the true numbers.
      names: the name of the numbers, alone in a list.
      about: what a run's `run.json` holds; its `centre` is the mean of the training labels.

    Raises:
      ValueError: for an output that is not finite, naming its row.
    """
    return NumberScores(finite(outputs)[:, 0], np.asarray(labels, np.float64), names[0], about.get("centre"))


def finite(outputs: np.ndarray) -> np.ndarray:
    """Returns outputs [examples, 1] as float64.

    Raises:
      ValueError: for an output that is not finite, naming its row.
    """
    if not np.isfinite(outputs).all():
        raise ValueError(f"the network's output of example {int(np.argmin(np.isfinite(outputs).all(1)))} is not finite")
    return np.asarray(outputs, np.float64)


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value from 1; equal values share their mean rank.

    Example:
      >>> ranks(np.array([30.0, 10.0, 10.0])).tolist()
      [3.0, 1.5, 1.5]
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Returns Pearson's correlation; None if the values of one side are all equal.

    Example:
      >>> round(correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0])), 4)
      0.866
    """
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])

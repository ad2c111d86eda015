"""The scores of predictions on labelled examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Scores of a classifier.

    Args:
      shares: the softmax of each example, [examples, classes].
      labels: the true classes, [examples].
      matrix: the confusion matrix: rows are the true classes, columns the predicted ones.
      classes: the names of the classes.
    """

    shares: np.ndarray
    labels: np.ndarray
    matrix: np.ndarray
    classes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """The share of examples whose largest output is that of their label."""
        return float(np.trace(self.matrix) / max(self.matrix.sum(), 1))

    @property
    def told(self) -> str:
        """The result in words."""
        return f"accuracy {100 * self.accuracy:.1f} % of {len(self.labels)}"

    @property
    def ranking(self) -> dict[str, float]:
        """The number that ranks runs, by name."""
        return {"accuracy": self.accuracy}

    def lines(self) -> list[str]:
        """Returns the scores of each class in words."""
        return [
            f"{name}: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}, {count} examples"
            for name, precision, recall, f1, count in self.by_class()
        ]

    def by_class(self) -> list[tuple[str, float, float, float, int]]:
        """Returns (class, precision, recall, F1, examples) of each class; a ratio without examples is 0."""
        right, said, true = np.diag(self.matrix), self.matrix.sum(0), self.matrix.sum(1)
        precision, recall = right / np.maximum(said, 1), right / np.maximum(true, 1)
        f1 = 2 * right / np.maximum(said + true, 1)
        columns = zip(self.classes, precision, recall, f1, true, strict=True)
        return [(name, float(p), float(r), float(f), int(n)) for name, p, r, f, n in columns]

    def confused(self) -> list[tuple[str, str, int, float]]:
        """Returns pairs (true class, predicted class, examples, share of the true class), the most frequent first."""
        off = self.matrix - np.diag(np.diag(self.matrix))
        order = np.argsort(-off.reshape(-1), kind="stable")[: np.count_nonzero(off)]
        pairs = [divmod(int(i), len(self.classes)) for i in order]
        return [
            (self.classes[a], self.classes[b], int(off[a, b]), float(off[a, b] / self.matrix[a].sum()))
            for a, b in pairs
        ]

    def mistakes(self) -> list[int]:
        """Returns the indices of wrong predictions, the most confident first."""
        wrong = np.flatnonzero(self.shares.argmax(1) != self.labels)
        return wrong[np.argsort(-self.shares[wrong].max(1), kind="stable")].tolist()

    def numbers(self) -> dict[str, Any]:
        """Returns all scores as JSON-compatible values."""
        rows = [
            dict(zip(("class", "precision", "recall", "f1", "examples"), row, strict=True)) for row in self.by_class()
        ]
        return {"accuracy": self.accuracy, "classes": rows, "confusion": self.matrix.tolist()}


def interval(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Returns Wilson's interval of a proportion, `(p + z²/2n ± z sqrt(p(1−p)/n + z²/4n²)) / (1 + z²/n)`.

    Args:
      right: the number of correct examples.
      of: the number of examples, n; p is `right / of`.
      z: the normal quantile; 1.96 for 95 percent.

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    share, extra = right / of, z**2 / of
    half = z * np.sqrt(share * (1 - share) / of + extra / (4 * of))
    return float((share + extra / 2 - half) / (1 + extra)), float((share + extra / 2 + half) / (1 + extra))


def shares(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits [examples, classes].

    Raises:
      ValueError: for an output that is not finite, naming its row.
    """
    if not np.isfinite(logits).all():
        raise ValueError(f"the network's output of example {int(np.argmin(np.isfinite(logits).all(1)))} is not finite")
    return softmax(logits)


def softmax(z: np.ndarray) -> np.ndarray:
    """Returns `exp(z_c) / Σ_k exp(z_k)` along the last axis; a row with a NaN becomes NaN."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def scored(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Scores:
    """Computes the scores of logits [examples, classes].

    Raises:
      ValueError: for an output that is not finite, naming its row.
    """
    found = shares(logits)
    matrix = np.zeros((len(classes),) * 2, np.int64)
    np.add.at(matrix, (labels, logits.argmax(1)), 1)
    return Scores(found, np.asarray(labels), matrix, tuple(classes))

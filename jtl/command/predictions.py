"""Predictions in words, and as the columns of a table."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Columns(NamedTuple):
    """The columns of predictions in a table.

    Args:
      own: the names of the first columns.
      classes: the names of the others, one per class.
      rows: the cells of each example.
    """

    own: tuple[str, ...]
    classes: tuple[str, ...]
    rows: list[list[str]]


def class_columns(shares: Any, classes: Sequence[str]) -> Columns:
    """Returns the predicted class, its share, and all shares, of shares [examples, classes]."""
    rows = [[classes[one.argmax()], f"{one.max():.6f}", *(f"{s:.6f}" for s in one)] for one in shares]
    return Columns(("prediction", "share"), tuple(classes), rows)


def number_columns(values: Any, names: Sequence[str]) -> Columns:
    """Returns the predicted number, of predictions [examples, 1]."""
    del names
    return Columns(("prediction",), (), [[f"{float(one[0]):.9g}"] for one in values])


def class_words(share: Any, classes: Sequence[str], top: int | None) -> str:
    """Returns the most probable classes with their shares.

    Example:
      >>> class_words([0.2, 0.8], ("ant", "bee"), 1)
      'bee (80.0 %)'
    """
    best = sorted(range(len(share)), key=lambda i: -share[i])[:top]
    return ", ".join(f"{classes[i]} ({100 * share[i]:.1f} %)" for i in best)


def number_words(value: Any, names: Sequence[str], top: int | None) -> str:
    """Returns the predicted number with its name.

    Example:
      >>> number_words([3.25], ("stars",), None)
      'stars 3.25'
    """
    del top
    return f"{names[0]} {float(value[0]):.6g}"

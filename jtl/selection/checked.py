"""Checks the arrays of a score and converts them to float64."""

import numpy as np


def rows(name: str, given: object, count: int | None = None) -> np.ndarray:
    """Returns a matrix [rows, columns] in float64.

    Args:
      name: name of the array, for messages.
      given: the array.
      count: number of rows that it must have; None for any number above zero.

    Raises:
      ValueError: for another rank, no rows or columns, another number of rows, or values that are not finite, because a
        row of NaN has no largest logit and would count as the first class.
    """
    x = np.asarray(given, np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} has shape {x.shape}: give [rows, columns], neither of them 0")
    if count not in (None, len(x)):
        raise ValueError(f"{name} has {len(x)} rows: give {count}, one for each row of what is beside it")
    if not (finite := np.isfinite(x)).all():
        first = int(np.argmin(finite.all(1)))
        raise ValueError(f"{name} has {int((~finite).sum())} values that are not finite, the first in row {first}")
    return x


def labels(y: object, count: int, name: str = "y", classes: int | None = None) -> np.ndarray:
    """Returns labels as one integer per row.

    Args:
      y: the labels.
      count: number of rows.
      name: name of the array, for messages.
      classes: number of classes, which labels must be below; None for any integers.

    Raises:
      ValueError: for labels that are not integers, not one per row, or outside [0, classes).
    """
    given = np.asarray(y)
    if given.shape != (count,) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"{name} has shape {given.shape} and dtype {given.dtype}: give one integer for each of {count} rows"
        )
    if classes is not None and (outside := (given < 0) | (given >= classes)).any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"{name} is {int(given[row])} in row {row}: labels of {classes} classes are 0 to {classes - 1}"
        )
    return given


def numbered(y: object, count: int, name: str = "y") -> tuple[np.ndarray, int]:
    """Labels renumbered from 0 without gaps, and the number of classes that occur; raises as `labels` does."""
    found, index = np.unique(labels(y, count, name), return_inverse=True)
    return index.reshape(-1), len(found)


def two_classes(y: object, count: int) -> tuple[np.ndarray, int]:
    """Like `numbered`, for scores that compare classes.

    Raises:
      ValueError: if fewer than two classes occur.
    """
    index, classes = numbered(y, count)
    if classes < 2:
        raise ValueError(f"y holds {classes} class: a score of classes needs at least 2")
    return index, classes

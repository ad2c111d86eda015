"""The arrays of a transferability score, checked and in float64."""

import numpy as np


def rows(name: str, given: object) -> np.ndarray:
    """A matrix [examples, columns] in float64.

    Raises:
      ValueError: for another rank, no rows or columns, or values that are not finite.
    """
    x = np.asarray(given, np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} has shape {x.shape}: give [examples, columns], neither of them 0")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has {int((~np.isfinite(x)).sum())} values that are not finite")
    return x


def labels(y: object, examples: int, name: str = "y") -> tuple[np.ndarray, int]:
    """Integer labels numbered anew from 0 without gaps, and how many classes occur.

    Raises:
      ValueError: for labels that are no integers, or not one for each example.
    """
    given = np.asarray(y)
    if given.shape != (examples,) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"{name} has shape {given.shape} and dtype {given.dtype}: give one integer for each of {examples} examples"
        )
    found, index = np.unique(given, return_inverse=True)
    return index.reshape(-1), len(found)


def two_classes(y: object, examples: int) -> tuple[np.ndarray, int]:
    """As `labels`, for scores that compare classes.

    Raises:
      ValueError: where fewer than two classes occur.
    """
    index, classes = labels(y, examples)
    if classes < 2:
        raise ValueError(f"y holds {classes} class: a score of classes needs at least 2")
    return index, classes

"""Checks the rows of a target, each of which has an entry in the statistics."""

import numpy as np


def refuse_missing(count: int, seen: np.ndarray) -> None:
    """Raises if an epoch of the target does not hold every row.

    Args:
      count: number of target rows.
      seen: the rows of the batches.

    Raises:
      ValueError: naming the first missing row.
    """
    missing = np.setdiff1d(np.arange(count), seen)
    if len(missing):
        raise ValueError(f"{len(missing)} of {count} rows are in no batch of target, as row {missing[0]}")

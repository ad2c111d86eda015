"""The rows of a target whose every example has a place in the statistics."""

import numpy as np


def refuse_missing(count: int, seen: np.ndarray) -> None:
    """Refuses an epoch of the target in which not every row is.

    Args:
      count: of the target's rows.
      seen: those of the batches.

    Raises:
      ValueError: naming the first that is missing.
    """
    missing = np.setdiff1d(np.arange(count), seen)
    if len(missing):
        raise ValueError(f"{len(missing)} of {count} rows are in no batch of target, as row {missing[0]}")

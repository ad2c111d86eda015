"""Checks the rows of a target, each of which has an entry in the statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from jtl.methods.views import View

_HOW = "give the data set np.arange(rows) for labels, and jtl.data.pair target_labels=True"


def rows_of(y: Any, who: str, of: str = "target") -> Int[Array, " batch"]:
    """Returns the row of each example in the target, which a batch holds in place of labels, int32 [batch].

    Args:
      y: the y of the batch.
      who: what requires it, for the message.
      of: the name of the data, for the message.

    Raises:
      ValueError: if y is missing, or is not integers [batch].
    """
    y = None if y is None else jnp.asarray(y)
    if y is None or y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        has = "missing" if y is None else f"{y.dtype} {list(y.shape)}"
        raise ValueError(f"{who}: y of {of!r} must be the row of each example, integers [batch], and is {has}: {_HOW}")
    return y.astype(jnp.promote_types(y.dtype, jnp.int32))  # a number of rows may not fit 8 bits


def refuse_labels(y: Any, count: int, who: str, mask: Any = None) -> None:
    """Raises if the first batch shows that its y are labels instead of rows. What jax traces is not checked.

    Args:
      y: the y of the batch.
      count: number of target rows.
      who: what requires rows, for the message.
      mask: which examples count; the others may repeat rows.

    Raises:
      ValueError: for a row beyond the last, or one that two examples of the batch share; negative numbers are no rows.
    """
    if not _there(y) or not (mask is None or _there(mask)):
        return
    y = np.asarray(y)
    found, times = np.unique(y[(y >= 0) & (True if mask is None else np.asarray(mask) > 0)], return_counts=True)
    if len(found) and found[-1] >= count:
        raise ValueError(f"{who}: y={found[-1]} is no row of a target of {count} examples: {_HOW}")
    if (times > 1).any():
        raise ValueError(
            f"{who}: {times.max()} examples of the batch have y={found[times.argmax()]}; y must be the row of each"
            f" example, not its label: {_HOW}"
        )


def refuse_views(view: View, count: int, who: str, of: str = "target") -> None:
    """Raises, when a run begins, if the y of a view are not rows, as far as its first batch shows.

    Args:
      view: the view of the first batch, whose arrays may be shapes.
      count: number of target rows.
      who: what requires rows, for the message.
      of: the name of the view, for the message.

    Raises:
      ValueError: as `rows_of` and `refuse_labels`.
    """
    jax.eval_shape(lambda y: rows_of(y, who, of), view.y)
    refuse_labels(view.y, count, who, view.mask)


def refuse_missing(count: int, seen: np.ndarray) -> None:
    """Raises if an epoch of the target does not hold every row, or holds one that does not exist.

    Args:
      count: number of target rows.
      seen: the rows of the batches.

    Raises:
      ValueError: naming the first missing row, or a row out of range.
    """
    missing = np.setdiff1d(np.arange(count), seen)
    if len(missing):
        raise ValueError(f"{len(missing)} of {count} rows are in no batch of target, as row {missing[0]}")
    if len(seen) and (seen.min() < 0 or seen.max() >= count):
        outside = seen.min() if seen.min() < 0 else seen.max()
        raise ValueError(f"the batches of target hold the row {outside}, and it has the rows 0 to {count - 1}")


def _there(a: Any) -> bool:
    """Whether the numbers of an array can be read here: it is not traced, and not spread over processes."""
    return isinstance(a, np.ndarray) or (
        isinstance(a, jax.Array) and not isinstance(a, Tracer) and a.is_fully_addressable
    )

"""Division of a batch into equal parts."""

from typing import Any

import jax

from jtl.params import flatten
from jtl.typing import Batch


def divide(batch: Batch, parts: int) -> Any:
    """Every leaf [batch, ...] as [parts, batch/parts, ...].

    Part i takes every `parts`-th row from row i on, so on a mesh each device keeps its own rows and no data
    moves between devices.

    Raises:
      ValueError: for a leaf whose first dimension is not a multiple of `parts`.
    """
    for path, leaf in flatten(batch).items():
        shape = jax.numpy.shape(leaf)
        if not shape or shape[0] % parts:
            raise ValueError(
                f"batch[{path!r}] of shape {shape} does not divide into {parts} microbatches; pad it, with mask False"
            )
    return jax.tree.map(lambda a: a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1), dict(batch))

"""How the tasks of a batch are spread: side by side, one after the other, or in chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops
from jtl.metrics.accumulate import Mean
from jtl.typing import Batch


def check(at_once: int | None) -> None:
    """Refuses a number of tasks below one."""
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once={at_once}: at least one task at a time; None for all")


def over_tasks(task: Callable, batch: Batch, at_once: int | None) -> Any:
    """`task(support, query, i)` of every task of a batch, stacked.

    Args:
      task: of one task, and its place in the batch.
      batch: {"support", "query"} with a leading axis of tasks.
      at_once: how many tasks run side by side; None for all.
    """
    tasks = jax.tree.leaves(batch["support"])[0].shape[0]
    with ops.apart():
        if tasks == 1:  # XLA's CPU backend keeps a batch dimension of one, and its batched products are slow
            only = jax.tree.map(lambda a: a[0], dict(batch))
            return jax.tree.map(lambda v: v[None], task(only["support"], only["query"], 0))
        # As jax arrays: a custom derivative of what is mapped, as iMAML's, takes no NumPy ones.
        rows = jax.tree.map(jnp.asarray, (dict(batch["support"]), dict(batch["query"]), jnp.arange(tasks)))
        if at_once is None or at_once >= tasks:
            return jax.vmap(task)(*rows)
        return jax.lax.map(lambda row: task(*row), rows, batch_size=None if at_once == 1 else at_once)


def means(found: dict[str, Any]) -> dict[str, Mean]:
    """Numbers of each task, [tasks], as means over tasks.

    Raises:
      ValueError: for what is not one number a task.
    """
    for name, value in found.items():
        if value.ndim > 1:
            raise ValueError(f"the metric {name!r} of a task has shape {value.shape[1:]}: give a number")
    return {n: Mean(v.sum(), jnp.full((), float(len(v)), v.dtype)) for n, v in found.items()}

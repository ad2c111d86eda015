"""Describes a model's parameters in a table: shapes, whether they are trained, and learning rates."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.params import Table, counted, flatten, match, unflatten
from jtl.typing import Mask, Params, Stats
from jtl.weights.mapping.coverage import table


def describe(
    params: Params,
    trainable: Mask,
    *,
    learning_rate: float | Table = (),
    stats: Stats | None = None,
    frozen_stats: bool = False,
) -> str:
    """Returns a table of path, shape, count, trainability and learning rate; then statistics, and totals last.

    Args:
      params: a nested dict of arrays or shapes.
      trainable: the mask of trainable parameters, `select(...)`.
      learning_rate: one rate for all trainable parameters, or a table `(regex, rate)` over their paths.
      stats: running statistics, which are listed too.
      frozen_stats: whether the statistics are frozen, as given to the objective.

    Returns:
      Lines of text.

    Raises:
      ValueError: as `select` and `match` do, for patterns that match nothing.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> params = {"head": {"bias": jnp.zeros(3), "kernel": jnp.zeros((8, 3))}}
      >>> print(jtl.describe(params, jtl.select("head/kernel")).splitlines()[-1])
      27 parameters, 24 trainable (88.89 %), 3 frozen
    """
    learns = flatten(trainable(params))
    leaves = dict(sorted(flatten(params).items(), key=lambda item: _counted(item[0])))
    if isinstance(learning_rate, Sequence):
        rates = _rates(learning_rate, {path: leaf for path, leaf in leaves.items() if learns[path]})
    else:
        rates = {path: f"{learning_rate:g}" for path, on in learns.items() if on}
    rows = [("path", "shape", "count", "trainable", "learning rate")]
    for path, leaf in leaves.items():
        shape = tuple(leaf.shape)
        rows.append((path, str(shape), f"{_count(shape):,}", "yes" if learns[path] else "frozen", rates.get(path, "-")))
    for path, leaf in sorted(flatten(stats or {}).items(), key=lambda item: _counted(item[0])):
        shape = tuple(leaf.shape)
        rows.append((path, str(shape), f"{_count(shape):,}", "statistics", "frozen" if frozen_stats else "running"))
    return "\n".join([table(rows), counted(params, learns)])


def _rates(rates: Table, trained: Mapping[str, Any]) -> dict[str, str]:
    if not rates:
        return {}
    found = flatten(match(rates, unflatten(trained)))
    return {path: rate if isinstance(rate, str) else f"{rate:g}" for path, rate in found.items()}


def _count(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _counted(path: str) -> list[tuple[int, str]]:
    """Returns a key that sorts `block2` before `block10`, and everything else alphabetically."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]

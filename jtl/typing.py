"""The few types that every room shares."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jaxtyping
from jaxtyping import PRNGKeyArray

Tree: TypeAlias = Any
"""A nested dict of arrays."""
Params: TypeAlias = dict[str, Any]
"""Nested dict of parameters, one tree for the whole method: `backbone/...`, `head/...`, `critic/...`."""
Stats: TypeAlias = dict[str, Any]
"""Nested dict of what changes without a gradient: running statistics, moving averages, queues."""
Batch: TypeAlias = Mapping[str, Any]
Key: TypeAlias = PRNGKeyArray
Step: TypeAlias = jaxtyping.Scalar
Scalar: TypeAlias = jaxtyping.Scalar
Output: TypeAlias = Any
Schedule: TypeAlias = Callable[[Any], Any]
"""A function of the step, as in optax."""


class Aux(NamedTuple):
    """What an objective returns beside its loss.

    Args:
      stats: the new statistics, the same tree as the objective was given.
      metrics: name -> `jtl.metrics.accumulate.Mean`, each a sum with its count.
    """

    stats: Stats
    metrics: dict[str, Any]


Objective: TypeAlias = Callable[[Params, Stats, Batch, Key, Any], tuple[Any, Aux]]
"""`objective(params, stats, batch, key, step) -> (loss, Aux)`; see `jtl.metrics.accumulate` for what a loss may be."""
Alignment: TypeAlias = Callable[[Params, Stats, Any, Key, Any], tuple[Any, Aux]]
"""An objective on `Views` of two domains in place of a batch."""
Mask: TypeAlias = Callable[[Params], Tree]
"""Which parameters learn: from parameters to a tree of booleans (`jtl.params.select`)."""

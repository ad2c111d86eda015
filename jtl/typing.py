"""The few types that all of jtl shares."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jaxtyping
from jaxtyping import PRNGKeyArray

Tree: TypeAlias = Any
"""A nested dict of arrays."""
Params: TypeAlias = dict[str, Any]
"""Nested dict of parameters, one tree for the whole method: `backbone/...`, `head/...`, `critic/...`."""
Stats: TypeAlias = dict[str, Any]
"""Nested dict of the values that change without a gradient: running statistics, moving averages, queues."""
Batch: TypeAlias = Mapping[str, Any]
Key: TypeAlias = PRNGKeyArray
Step: TypeAlias = jaxtyping.Scalar
Scalar: TypeAlias = jaxtyping.Scalar
Output: TypeAlias = Any
Schedule: TypeAlias = Callable[[Any], Any]
"""A function of the step, as in optax."""


class Aux(NamedTuple):
    """What an objective returns in addition to its loss.

    Args:
      stats: the new statistics, a tree like the one that the objective was given.
      metrics: name -> `jtl.Mean` or `jtl.Sums`, which add up over batches.
      outputs: name -> a tree of arrays with one row per example, for `jtl.collect`; a train step leaves them out, so
        they cost nothing there.
    """

    stats: Stats
    metrics: dict[str, Any] = {}
    outputs: dict[str, Any] = {}


Mask: TypeAlias = Callable[[Params], Tree]
"""Which parameters are trained: a function from parameters to a tree of booleans (`jtl.params.select`)."""

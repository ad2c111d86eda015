"""Helpers that test-time objectives share: the logits of a batch, its mask and the number of classes."""

from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops
from jtl.methods.adapt.test_time.norms import by_batch
from jtl.model import Model, Variables
from jtl.typing import Batch, Key, Params, Stats


def logits_of(net: Model, params: Params, stats: Stats, batch: Batch, key: Key | None) -> Any:
    """The logits of a batch, normalised by the batch's statistics.

    Rows that the mask leaves out contribute to these statistics too, because real examples are used to fill up a batch;
    such rows become zeros only if they cannot be computed with.

    Raises:
      ValueError: for an output that is not [batch, classes].
    """
    x = ops.without_masked(batch["x"], batch.get("mask"))
    return checked_logits(by_batch(net).apply(Variables(params, stats), x, train=True, key=key)[0].output)


def checked_logits(output: Any) -> Any:
    """An output, if it is logits.

    Raises:
      ValueError: for an output that is not [batch, classes].
    """
    if jnp.ndim(output) != 2:
        raise ValueError(f"test-time adaptation needs logits [batch, classes]; this network gives {jnp.shape(output)}")
    return output


def kept(batch: Batch, rows: int) -> Any:
    """The mask of a batch as booleans, all True if it has none."""
    return ops.kept(batch.get("mask"), rows)


def classes_of(net: Model, variables: Variables, batch: Batch) -> int:
    """The number of classes, without computing anything."""
    return jax.eval_shape(lambda v: net.apply(v, batch["x"], train=False)[0].output, variables).shape[1]

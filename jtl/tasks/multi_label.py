"""Multi-label classification: any number of labels per example."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jtl import heads, losses
from jtl.data.pipeline import distinct
from jtl.heads import Reads
from jtl.metrics.accumulate import Metric
from jtl.metrics.elements import spread
from jtl.tasks.task import Task

IGNORE = -1
"""The value of an unknown label."""


def multi_label(
    labels: int | np.integer | Sequence[str],
    *,
    threshold: Any = 0.5,
    positive_weights: Any = None,
    dropout: float = 0.0,
    reads: Reads = "pooled",
) -> Task:
    """Makes a multi-label task: sigmoid cross-entropy of a linear head, averaged over known labels.

    Args:
      labels: the names of the labels, by which a network with this head matches the columns of data; or their number.
      threshold: the least probability, in (0, 1), at which a label is predicted; one number, or one per label.
      positive_weights: the weight of each label's positives in the loss, as in `jtl.losses.binary_cross_entropy`.
      dropout: the dropout rate of the features in training.
      reads: the features that the head reads.

    Returns:
      A task with labels y [batch, labels] of 0 and 1, and -1 for unknown ones (`jtl.data.arrays(..., ignore=-1)`).
      Metric "f1" has "each", the F1 of each label, and "macro", the mean over the labels that are true or predicted
      somewhere. `decode(output)` returns lists of names, or bool [rows, labels] if the labels have no names. The mean
      average precision of all rows is `jtl.metrics.average_precision(output, y)`.

    Raises:
      ValueError: for no labels, a duplicate name, or a threshold that is out of range or of another number than one or
        one per label.
      TypeError: for a single string instead of names.

    Example:
      >>> import numpy as np, jtl
      >>> jtl.tasks.multi_label(("cat", "dog")).decode(np.array([[0.1, 2.0], [-3.0, -1.0]]))
      [['cat', 'dog'], []]
    """
    names = None if isinstance(labels, int | np.integer) else distinct(labels)
    count = int(labels) if isinstance(labels, int | np.integer) else len(labels)
    least = np.asarray(threshold, np.float32)
    if least.shape not in ((), (count,)) or not ((least > 0) & (least < 1)).all():
        raise ValueError(f"threshold={threshold}: give a probability in (0, 1), or one for each of {count} labels")
    least = np.broadcast_to(np.log(least / (1 - least)), (count,))

    def decode(output: Any) -> Any:
        found = np.asarray(output) >= least
        return found if names is None else [[names[i] for i in np.flatnonzero(row)] for row in found]

    def sums(output: Any, y: Any, weights: Any) -> dict[str, Array]:
        output, y = jnp.asarray(output), jnp.asarray(y)
        if output.shape != y.shape or output.shape[-1] != count:
            raise ValueError(f"labels y of shape {y.shape} beside outputs of shape {output.shape}: {count} a row")
        w = spread(weights, y.shape)
        found = jnp.where(jnp.isnan(output), jnp.nan, (output >= jnp.asarray(least)[None]).astype(jnp.float32))
        true = (y > 0.5).astype(jnp.float32)
        each = {"right": found * true, "predicted": found, "true": true}
        return {name: jnp.where(w > 0, values * w, 0.0).sum(0) for name, values in each.items()}

    positive = None if positive_weights is None else np.asarray(positive_weights, np.float32)
    loss = partial(losses.binary_cross_entropy, positive_weights=positive, elementwise=True)
    head = heads.linear(count, dropout=dropout, reads=reads)._replace(classes=names)
    return Task(head, loss, {"f1": Metric(sums, _f1)}, decode, IGNORE)


def _f1(sums: dict[str, Any]) -> dict[str, Any]:
    right, under = jnp.asarray(sums["right"]), jnp.asarray(sums["predicted"] + sums["true"])
    each = jnp.where(under == 0, 0.0, 2 * right / jnp.where(under == 0, 1.0, under))  # NaN stays
    return {"each": each, "macro": each.sum() / jnp.maximum((under != 0).sum(), 1)}

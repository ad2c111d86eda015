"""Classification: one class per example."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from jtl import heads, losses, metrics
from jtl.data.pipeline import distinct
from jtl.heads import Reads
from jtl.tasks.task import Task


def classification(
    classes: int | np.integer | Sequence[str], *, smoothing: float = 0.0, dropout: float = 0.0, reads: Reads = "pooled"
) -> Task:
    """Makes a classification task: softmax cross-entropy of a linear head, `−log p_y`, `p = softmax(W x + b)`.

    Args:
      classes: the names of the classes, by which a network with this head matches the labels of data; or their number.
      smoothing: the share of the target that is spread over all classes, both in training and evaluation.
      dropout: the dropout rate of the features in training.
      reads: the features that the head reads.

    Returns:
      A task with integer labels y [batch] and metric "accuracy". `decode(output)` returns a list of names, or class
      numbers [rows] if the classes have no names.

    Raises:
      ValueError: for no classes, or a duplicate name.
      TypeError: for a single string instead of names.

    Example:
      >>> import numpy as np, jtl
      >>> jtl.tasks.classification(("cat", "dog")).decode(np.array([[0.1, 2.0], [3.0, -1.0]]))
      ['dog', 'cat']
    """
    names = None if isinstance(classes, int | np.integer) else distinct(classes)
    count = int(classes) if isinstance(classes, int | np.integer) else len(classes)

    def decode(output: Any) -> Any:
        found = np.asarray(output).argmax(-1)
        return found if names is None else [names[i] for i in found]

    head = heads.linear(count, dropout=dropout, reads=reads)._replace(classes=names)
    loss = partial(losses.cross_entropy, smoothing=smoothing)
    return Task(head, loss, {"accuracy": metrics.accuracy}, decode)

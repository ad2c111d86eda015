"""The parts of a task."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jtl.metrics.accumulate import Metric
from jtl.model import Model


class Task(NamedTuple):
    """A head with its loss, its metrics and the decoding of its output.

    Args:
      head: the model from features to outputs; in a network it may have any name.
      loss: `loss(output, y) -> values`, one per element, or a dict of such terms.
      metrics: name -> function of (output, y) or `jtl.Metric`.
      decode: `decode(output, ...) -> predictions`, on the host, for the outputs of `jtl.predict`.
      ignore: the label of elements that do not count; None for none.

    Example:
      >>> import jtl
      >>> task = jtl.tasks.classification(("cat", "dog"))
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=task.head)
      >>> objective = jtl.finetune(net, **task.supervision)
      >>> validation = jtl.evaluation(net, **task.supervision)
    """

    head: Model
    loss: Callable[[Any, Any], Any]
    metrics: Mapping[str, Callable | Metric]
    decode: Callable[..., Any]
    ignore: int | None = None

    @property
    def supervision(self) -> dict[str, Any]:
        """The loss, metrics and ignored label, as arguments of `finetune`, `features`, `evaluation` and `adapt`."""
        return {"loss": self.loss, "metrics": self.metrics, "ignore": self.ignore}

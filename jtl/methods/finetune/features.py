"""Feature extraction: a frozen backbone, and a small model on what it sees."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jtl import losses
from jtl.methods.finetune.finetune import ACCURACY, finetune
from jtl.model import Model, Variables, pick
from jtl.typing import Objective


def features(
    backbone: Model,
    head: Model,
    loss: Callable = losses.cross_entropy,
    *,
    feature: str | Sequence[str] = "pooled",
    metrics: Mapping[str, Callable] = ACCURACY,
) -> Objective:
    """The objective of a head on a frozen backbone, which runs as in evaluation.

    The gradient stops below the head whatever the step's mask says, so it is never computed. A regressor is a
    head with a regression loss (`losses.mse`) and its own metrics.

    Args:
      backbone: not trained; give the step `trainable=select("head/.*")`.
      head: a classifier or regressor on [batch, dim].
      loss: `loss(outputs, y) -> [batch]`.
      feature: one of the backbone's features, or several, put side by side.
      metrics: name -> `metric(outputs, y) -> [batch]`.
    """

    def apply(variables: Variables, x: Any, *, train: bool, key: Any = None) -> tuple:
        found, stats = backbone.apply(variables, x, train=train, key=key)
        return jax.lax.stop_gradient(found), stats

    frozen = Model(backbone.init, apply)
    return finetune(frozen, head, loss, feature=feature, frozen_stats=True, metrics=metrics)


def extract(
    backbone: Model,
    variables: Variables,
    batches: Iterable[Mapping[str, Any]],
    *,
    feature: str | Sequence[str] = "pooled",
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a frozen backbone over data once, so that many heads can be fitted to the result.

    Args:
      backbone: a model.
      variables: its own (`jtl.model.part(variables, "backbone")`).
      batches: of `{"x", "y", "mask"}`; rows that the mask leaves out are dropped.
      feature: as in `features`.

    Returns:
      Features [examples, dim] and labels [examples, ...], in the order of the batches.

    Raises:
      ValueError: where there is no batch.
    """
    run = jax.jit(lambda v, x: pick(backbone.apply(v, x, train=False, key=None)[0], feature, x))
    rows = []
    for batch in batches:
        keep = np.asarray(batch.get("mask", np.ones(len(batch["y"])))) > 0  # a mask may hold weights
        rows.append((np.asarray(run(variables, batch["x"]))[keep], np.asarray(batch["y"])[keep]))
    if not rows:
        raise ValueError("no batch to extract features from: the data set is empty")
    x, y = zip(*rows, strict=True)
    return np.concatenate(x), np.concatenate(y)

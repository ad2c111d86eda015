"""Feature extraction: a frozen backbone, and a small model on its features."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import losses
from jtl.methods.finetune.cache import compiled
from jtl.methods.finetune.finetune import ACCURACY, finetune, frozen_backbone
from jtl.metrics.accumulate import Metric
from jtl.model import Model, Variables
from jtl.objective import Objective
from jtl.reads import Read


def features(
    net: Model,
    loss: Callable = losses.cross_entropy,
    *,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
) -> Objective:
    """The objective of training heads on a frozen backbone, which runs in evaluation mode.

    The gradient stops below the heads whatever the step's mask is, so the backbone's gradient is never computed. A
    regressor is a head with a regression loss (`losses.mse`) and its own metrics.

    Args:
      net: `jtl.network(backbone=..., head=...)`; pass `trainable=select("head/.*")` to the step.
      loss: as in `finetune`.
      metrics: as in `finetune`.
      ignore: as in `finetune`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(1))
      >>> objective = jtl.features(net, lambda out, y: jtl.losses.mse(out[:, 0], y), metrics={})
    """
    return finetune(frozen_backbone(net), loss, metrics=metrics, ignore=ignore)


def extract(
    backbone: Model,
    variables: Variables,
    batches: Iterable[Mapping[str, Any]],
    read: Read | None = None,
    *,
    cache: str | Path | None = None,
) -> tuple[Any, np.ndarray | None]:
    """Runs a frozen backbone over data once, so that many heads can be fitted to the result.

    Args:
      backbone: a model without a head, such as `known.backbone` of `jtl.load`, or
        `jtl.preprocessed(known.backbone, normalise)`.
      variables: the backbone's variables (`jtl.part(variables, "backbone")`).
      batches: batches `{"x", "y", "mask"}`, the last two optional; rows that the mask leaves out are dropped.
      read: which features to read, as for a head; None for `pooled`. Several layers are read by name:
        `jtl.reads.reads(("stage3", "stage4"))` side by side, `jtl.reads.whole("stage3", "stage4")` as a dict.
      cache: a folder that keeps the features, so that a later call, also after a killed run, does not run the backbone
        on the same batches again; see `jtl.finetuning.Cache` for when batches are the same. None keeps nothing.

    Returns:
      The features that are read, [examples, dim], and the labels [examples, ...], or None if there are none, in the
      order of the batches.

    Raises:
      ValueError: if there is no batch, or if the cache is a file.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> body = jtl.backbones.mlp((8,))
      >>> variables = body.init(jax.random.key(0), jnp.zeros((2, 5)))
      >>> x, y = jtl.extract(body, variables, [{"x": jnp.zeros((2, 5)), "y": jnp.zeros(2)}])
      >>> x.shape
      (2, 8)
    """
    read = Read() if read is None else read

    def run(variables: Variables, x: Any) -> Any:
        return read(backbone.apply(variables, x, train=False, key=None)[0], x)

    of, found, labels = compiled(run, variables, cache), [], []
    for batch in batches:
        rows = jax.tree.map(np.asarray, of(batch["x"]))
        keep = np.asarray(batch.get("mask", np.ones(len(jax.tree.leaves(rows)[0])))) > 0  # a mask may hold weights
        found.append(jax.tree.map(lambda a, keep=keep: a[keep], rows))
        if "y" in batch:
            labels.append(np.asarray(batch["y"])[keep])
    if not found:
        raise ValueError("no batch to extract features from: the data set is empty")
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found), np.concatenate(labels) if labels else None

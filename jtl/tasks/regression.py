"""Regression: one or more numbers per example."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import heads, losses
from jtl.heads import Reads
from jtl.metrics.accumulate import Metric, mean
from jtl.metrics.elements import spread
from jtl.metrics.regression import r2
from jtl.tasks.task import Task


def regression(
    outputs: int = 1,
    *,
    loss: Callable = partial(losses.mse, elementwise=True),
    centre: Any = 0.0,
    scale: Any = 1.0,
    dropout: float = 0.0,
    reads: Reads = "pooled",
) -> Task:
    """Makes a regression task for targets in any units: a linear head learns `(y − centre) / scale`.

    Args:
      outputs: how many numbers each example has.
      loss: `losses.mse`, `losses.huber`, or any `loss(prediction, target) -> values`, in scaled units; with
        `elementwise=True` some numbers of an example may be left out by `weights` or `ignore`.
      centre: the centre of the targets, such as their mean in the training data; one number, or one per output.
      scale: the scale of the targets, such as their standard deviation, above 0; one number, or one per output.
      dropout: the dropout rate of the features in training.
      reads: the features that the head reads.

    Returns:
      A task with targets y [batch, outputs], or [batch] for one output; with metrics "rmse" and "mae" over all outputs,
      in the units of y, and "r2", the mean of `jtl.metrics.r2` over outputs. `decode(output)` returns predictions in
      the units of y, [rows, outputs], or [rows] for one output. Other metrics see the output in scaled units.

    Raises:
      ValueError: for a centre or scale that is not finite, or of another number than one or one per output; for a scale
        that is not above 0; while tracing, for targets of another shape.

    Example:
      >>> import numpy as np, jtl
      >>> task = jtl.tasks.regression(centre=50.0, scale=10.0)
      >>> task.decode(np.array([[0.5], [-1.0]])).tolist()
      [55.0, 40.0]
    """
    for name, given in (("centre", centre), ("scale", scale)):
        if np.shape(given) not in ((), (outputs,)) or not np.isfinite(given).all():
            raise ValueError(f"{name}={given}: give a finite number, or one for each of {outputs} outputs")
    middle, unit = (np.broadcast_to(np.asarray(v, np.float32), (outputs,)) for v in (centre, scale))
    if not (unit > 0).all():
        raise ValueError(f"scale={scale}: give the spread of the targets, above 0")
    explained = r2()

    def scaled(output: Any, y: Any) -> tuple[Any, Any]:
        y = jnp.asarray(y)
        if y.shape not in (output.shape, output.shape[:1] if outputs == 1 else output.shape):
            raise ValueError(f"targets y of shape {y.shape} beside predictions of shape {output.shape}")
        return output, (y.reshape(output.shape) - middle[None]) / unit[None]

    def values(output: Any, y: Any) -> Any:
        found = loss(*scaled(output, y))
        return found.reshape(jnp.shape(y)) if found.shape == output.shape else found

    def error(output: Any, y: Any) -> Any:
        prediction, target = scaled(output, y)
        return ((prediction - target) * unit[None]).reshape(jnp.shape(y))

    def explanation(output: Any, y: Any, weights: Any) -> Any:
        w = spread(weights, jnp.shape(y)).reshape(output.shape)
        return jax.vmap(explained.sums, in_axes=1)(*scaled(output, y), w)  # scaling changes nothing

    def decode(output: Any) -> Any:
        found = np.asarray(output) * unit + middle
        return found[:, 0] if outputs == 1 else found

    metrics = {
        "rmse": Metric(lambda output, y, weights: mean(error(output, y) ** 2, weights), _root),
        "mae": lambda output, y: jnp.abs(error(output, y)),
        "r2": Metric(explanation, lambda sums: explained.finish(sums).mean()),
    }
    return Task(heads.linear(outputs, dropout=dropout, reads=reads), values, metrics, decode)


def _root(squares: Any) -> Any:
    return jnp.sqrt(squares.value)

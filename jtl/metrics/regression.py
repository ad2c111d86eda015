"""How much of a target's variance a regression explains."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jtl.metrics.accumulate import Metric
from jtl.metrics.elements import spread


def r2(centre: float = 0.0) -> Metric:
    """The coefficient of determination, `1 − Σ (y − ŷ)² / Σ (y − ȳ)²`, over all numbers of the data.

    `Σ (y − ȳ)²` is computed as `Σ (y − c)² − (Σ (y − c))² / n`. In float32 its relative error grows with `(ȳ − c)²`
    over the variance: if the mean is far from 0 compared to the spread, give a centre c near the mean.

    Args:
      centre: c, in units of y.

    Returns:
      A metric of predictions and y of one shape; NaN if all y are equal, because there is nothing to explain.

    Raises:
      ValueError: while it sums, for predictions of another shape than y.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> metric = jtl.metrics.r2()
      >>> y = jnp.array([1.0, 2.0, 3.0])
      >>> round(float(metric.finish(metric.sums(y + jnp.array([0.0, 0.0, 1.0]), y, None))), 4)
      0.5
    """

    def sums(outputs: Any, y: Any, weights: Any) -> dict[str, Array]:
        y = jnp.asarray(y, jnp.float32)
        prediction = jnp.asarray(outputs, jnp.float32)
        if prediction.shape != y.shape:
            raise ValueError(f"predictions of shape {prediction.shape} beside y of shape {y.shape}: give one for each")
        w = spread(weights, y.shape)
        off = y - centre
        each = {"n": jnp.ones_like(y), "y": off, "square": off**2, "error": (y - prediction) ** 2}
        return {name: jnp.where(w > 0, value * w, 0.0).sum() for name, value in each.items()}

    return Metric(sums, _explained)


def _explained(sums: dict[str, Any]) -> Array:
    n, y, square, error = (sums[name] for name in ("n", "y", "square", "error"))
    spread = square - y * y / (n + (n == 0))  # while the host's sums are float64, which jax rounds
    spread, error = jnp.asarray(spread, jnp.float32), jnp.asarray(error, jnp.float32)
    return jnp.where(spread > 0, 1 - error / jnp.where(spread > 0, spread, 1.0), jnp.nan)

"""Calibration: the difference between a classifier's confidence and its accuracy."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl.metrics.accumulate import Metric
from jtl.metrics.elements import judged, known, spread


def calibration_error(bins: int = 15) -> Metric:
    """The expected calibration error, `Σ_b n_b/n |accuracy_b − confidence_b|` over bins of equal width.

    A bin holds the elements whose largest probability lies in ((b − 1)/bins, b/bins]. An element whose label is not a
    class does not count.

    Args:
      bins: the number of bins.

    Returns:
      A metric of logits [batch, ..., classes] and integer y [batch, ...]; its sums are, for each bin, the weight, the
      confidence and the number of right elements.

    Raises:
      ValueError: for fewer than 1 bin; labels that are not integers.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> metric = jtl.metrics.calibration_error(10)
      >>> logits = jnp.log(jnp.array([[0.85, 0.15], [0.85, 0.15]]))
      >>> round(float(metric.finish(metric.sums(logits, jnp.array([0, 1]), None))), 3)
      0.35

    Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}: there is at least one")

    def sums(outputs: Any, y: Any, weights: Any) -> Array:
        logits, y = judged(outputs, y)
        logits = logits.astype(jnp.float32)
        w = jnp.where(known(y, logits.shape[-1]), spread(weights, y.shape), 0.0).reshape(-1)
        confidence = jax.nn.softmax(logits).max(-1).reshape(-1)
        right = (logits.argmax(-1) == y).reshape(-1).astype(jnp.float32)
        place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
        each = jnp.stack([jnp.ones_like(w), confidence, right])
        each = jnp.where(w[None] > 0, each * w[None], 0.0)
        return each @ jax.nn.one_hot(place, bins)

    return Metric(sums, _expected)


def _expected(sums: Any) -> Array:
    weight, confidence, right = jnp.asarray(sums, jnp.float32)
    return jnp.abs(right - confidence).sum() / jnp.maximum(weight.sum(), 1e-30)

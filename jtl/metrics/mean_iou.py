"""Mean intersection over union of segmented classes."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Num

from jtl.metrics.accumulate import Metric
from jtl.metrics.classification import confusion_matrix
from jtl.metrics.elements import judged, known, spread


def mean_iou(classes: int) -> Metric:
    """The mean over classes of `TP / (TP + FP + FN)`, counted over all pixels of the data.

    Classes that are neither true nor predicted anywhere do not count. The mean is NaN if a logit of a pixel that counts
    is.

    Args:
      classes: the number of classes.

    Returns:
      A metric of outputs [batch, ..., classes] and y [batch, ...]; its sums are a confusion matrix and the number of
      pixels that count and have a NaN. Both are integers, so that they are exact for many pixels. A pixel counts if its
      weight is positive.

    Raises:
      ValueError: for fewer than 1 class; outputs with another number of classes, or labels that are not integers.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> metric = jtl.metrics.mean_iou(3)
      >>> y, predicted = jnp.array([[0, 0, 1, 1]]), jnp.array([[0, 1, 1, 1]])
      >>> round(float(metric.finish(metric.sums(jnp.eye(3)[predicted], y, None))), 4)
      0.5833

    Everingham et al., The PASCAL Visual Object Classes Challenge, 2010.
    """
    if classes < 1:
        raise ValueError(f"classes={classes}: there is at least one")

    def sums(outputs: Any, y: Any, weights: Any) -> tuple[Array, Array]:
        logits, y = judged(outputs, y, classes)
        kept = spread(weights, y.shape) > 0
        nan = jnp.isnan(logits).any(-1) & known(y, classes) & kept  # the argmax of such logits is 0
        return confusion_matrix(logits.argmax(-1), y, classes, kept), nan.sum(dtype=jnp.int32)

    return Metric(sums, _of_numbers)


def _of_numbers(sums: tuple[Any, Any]) -> Array:
    matrix, nan = sums
    return jnp.where(jnp.asarray(nan) > 0, jnp.nan, iou_of(matrix))


def iou_of(matrix: Num[ArrayLike, "classes classes"]) -> Array:
    """The mean intersection over union of a confusion matrix, rows true, columns predicted."""
    matrix = jnp.asarray(matrix).astype(jnp.float32)
    both = jnp.diagonal(matrix)
    union = matrix.sum(0) + matrix.sum(1) - both
    seen = union > 0
    return jnp.where(seen, both / jnp.where(seen, union, 1.0), 0.0).sum() / jnp.maximum(seen.sum(), 1)

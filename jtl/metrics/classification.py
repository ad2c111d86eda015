"""Metrics as pure functions: one value per example, or one matrix that adds up over batches."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from jtl.metrics.elements import judged, known


def accuracy(
    logits: Float[ArrayLike, "*batch classes"], y: Integer[ArrayLike, "*batch"] | Float[ArrayLike, "*batch classes"]
) -> Float[Array, "*batch"]:
    """`1[argmax_c z_c = y]` for each element. Of equal logits the first counts; NaN if a logit is NaN.

    Args:
      logits: [..., classes].
      y: integer labels [...], or distributions over classes [..., classes], as mixup makes them; the class of the
        largest entry is the label. If such a row is not a distribution, as in a regression, the accuracy is NaN.

    Raises:
      ValueError: for labels whose shape does not fit, or labels [...] that are not integers.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.metrics.accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])).tolist()
      [1.0, 0.0]
    """
    y, known = _hard(logits, y)
    logits, y = judged(logits, y)
    return _judged(logits, jnp.argmax(logits, -1) == y, known)


def top_k(
    logits: Float[ArrayLike, "*batch classes"],
    y: Integer[ArrayLike, "*batch"] | Float[ArrayLike, "*batch classes"],
    k: int = 5,
) -> Float[Array, "*batch"]:
    """1 if the label's logit is among the k largest, else 0. Of equal logits the first count; NaN as in `accuracy`.

    Args:
      logits: [..., classes].
      y: integer labels [...], or distributions, as in `accuracy`.
      k: at least 1, at most the number of classes.

    Raises:
      ValueError: for `k` out of range, or labels as in `accuracy`.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.metrics.top_k(jnp.array([[3.0, 2.0, 1.0]] * 2), jnp.array([1, 2]), k=2).tolist()
      [1.0, 0.0]
    """
    y, known = _hard(logits, y)
    logits, y = judged(logits, y)
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k={k}: must lie between 1 and the number of classes, {logits.shape[-1]}")
    _, best = jax.lax.top_k(logits, k)
    return _judged(logits, (best == y[..., None]).any(-1), known)


def confusion_matrix(
    predicted: Integer[ArrayLike, "*batch"],
    y: Integer[ArrayLike, "*batch"],
    classes: int,
    mask: Bool[ArrayLike, "*batch"] | Float[ArrayLike, "*batch"] | None = None,
) -> Integer[Array, "classes classes"]:
    """`M_rc = Σ_i 1[y_i = r, ŷ_i = c]`, the elements of class r that are predicted as class c; matrices add up.

    Args:
      predicted: integer classes, any shape.
      y: the true classes, of the same shape. A pair with a class outside [0, classes) is not counted.
      classes: the number of classes.
      mask: examples count if it is positive; None for all.

    Raises:
      ValueError: for classes that are not integers, or shapes that differ.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.metrics.confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), 2).tolist()
      [[1, 1], [0, 1]]
    """
    y, predicted = (_integers(name, value) for name, value in (("y", y), ("predicted", predicted)))
    if y.shape != predicted.shape:
        raise ValueError(f"predicted of shape {predicted.shape} beside y of shape {y.shape}: give one for each example")
    y, predicted = y.reshape(-1), predicted.reshape(-1)
    counts = jnp.ones(y.shape, jnp.int32) if mask is None else (jnp.asarray(mask).reshape(-1) > 0).astype(jnp.int32)
    both = known(y, classes) & known(predicted, classes)
    # A negative index would count from the end, so what is out of range goes to the place that is dropped.
    cell = jnp.where(both, y * classes + predicted, classes * classes)
    flat = jnp.zeros(classes * classes, jnp.int32).at[cell].add(counts, mode="drop")
    return flat.reshape(classes, classes)


def _integers(name: str, value: ArrayLike) -> Array:
    """Classes as int32: in the eight bits of some label files, `row * classes + column` would wrap around."""
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {value.dtype}: give integer classes, as jnp.argmax(logits, -1)")
    return value.astype(jnp.int32)


def _hard(logits: ArrayLike, y: ArrayLike) -> tuple[Array, Any]:
    """Labels as integers, for distributions the class of the largest entry, and which labels are valid."""
    y = jnp.asarray(y)
    if y.shape != jnp.shape(logits) or y.shape[-1] < 2 or not jnp.issubdtype(y.dtype, jnp.floating):
        return y, True
    return jnp.argmax(y, -1), (y >= 0).all(-1) & (jnp.abs(y.sum(-1, dtype=jnp.float32) - 1) < 0.01)


def _judged(logits: Array, right: Array, known: Any) -> Array:
    """NaN for invalid labels and for NaN logits: XLA's argmax of NaN is 0, which would be right if the label is 0."""
    return jnp.where(jnp.isnan(logits).any(-1) | ~jnp.asarray(known), jnp.nan, right.astype(jnp.float32))

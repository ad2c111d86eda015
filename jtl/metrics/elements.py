"""Outputs, labels and weights of elements, and the checks that they fit each other."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jtl._tracing import scope
from jtl.metrics.accumulate import element_weights


def judged(outputs: Any, y: Any, classes: int | None = None) -> tuple[Array, Array]:
    """Logits [..., classes] and the integer labels [...] of their elements; notes how many outputs labels stand for.

    Raises:
      ValueError: for labels of another shape or that are not integers, or outputs with another number of classes.

    Example:
      >>> import numpy as np
      >>> from jtl.metrics.elements import judged
      >>> judged(np.eye(3), np.array([0, 1, 1]), 3)[1].tolist()
      [0, 1, 1]
    """
    logits, y = jnp.asarray(outputs), jnp.asarray(y)
    if y.shape != logits.shape[:-1]:  # it would be compared with every other example's
        raise ValueError(
            f"labels y of shape {y.shape}, {y.dtype}, do not fit outputs of shape {logits.shape}: give integers of"
            f" shape {logits.shape[:-1]}, or for soft labels and regressions metrics= of the objective, {{}} for none"
        )
    if jnp.issubdtype(y.dtype, jnp.inexact):
        raise ValueError(f"labels y are {y.dtype}: numbers of classes must be integers, as y.astype(int)")
    if classes is not None and logits.shape[-1] != classes:
        raise ValueError(f"outputs of shape {logits.shape}: this metric is of {classes} classes")
    scope.note(f"{scope.OUTPUTS}{logits.shape[-1]}")
    return logits, y


def spread(weights: Any, shape: tuple[int, ...]) -> Array:
    """One weight per element, float32: ones for None; weights over leading axes are repeated along the others.

    Raises:
      ValueError: for weights whose shape is not a leading part of `shape`.

    Example:
      >>> import numpy as np
      >>> from jtl.metrics.elements import spread
      >>> spread(np.array([1.0, 0.0]), (2, 3)).tolist()
      [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    w = element_weights(shape, None, weights)
    if w is None:
        return jnp.ones(shape, jnp.float32)
    return jnp.broadcast_to(w.astype(jnp.float32).reshape(w.shape + (1,) * (len(shape) - w.ndim)), shape)


def known(y: Any, classes: int) -> Any:
    """Whether each label is a class; other labels, such as -100 for padding, do not count.

    Example:
      >>> import numpy as np
      >>> from jtl.metrics.elements import known
      >>> known(np.array([0, 2, -100]), 2).tolist()
      [True, False, False]
    """
    return (y >= 0) & (y < classes)

"""Turns a meta-trained network into a predictor of new classes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jtl.methods.meta.inner_loop import Adapt
from jtl.metrics.accumulate import element_weights
from jtl.model import Model, Variables
from jtl.typing import Batch, Key

Predictor = Callable[[Any], Any]


def learner(
    net: Model, adapt: Adapt, variables: Variables, *, transductive: bool = False, key: Key | None = None
) -> Callable[[Batch], Predictor]:
    """Returns `learn(support) -> predict`, which adapts to the examples of a task; then `predict(x) -> outputs`.

    Both are compiled once for each shape. `adapt` alone determines how `learn` adapts: as in meta-training, or with
    more inner steps if it has more.

    Args:
      net: the network that was trained.
      adapt: how it adapts: `adapt_to(...)`, `prototypes(net)` or any other `Adapt`.
      variables: the trained variables, with the adaptation's own parameters if it has any.
      transductive: normalise queries by the statistics of their own batch, as in the published results of MAML.
        Otherwise they are normalised by running statistics, which for BatchNorm of momentum 1 are the support set's.
      key: key for randomness in adapting, such as a head that is drawn for each task; None for key 0.

    Returns:
      `learn`, whose argument is {"x", "y", "mask", "weights"}, the last two optional.

    Raises:
      ValueError: in `learn`, for labels out of range, if there is not one label per row, if no row of the support set
        counts, or if `adapt` reads classes and the labels are not integers.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
      >>> support = {"x": jnp.eye(4), "y": jnp.array([0, 0, 1, 1])}
      >>> learn = jtl.learners.learner(net, jtl.learners.prototypes(net), net.init(jax.random.key(0), support["x"]))
      >>> predict = learn(support)
      >>> predict(jnp.eye(4)).argmax(1).tolist()
      [0, 0, 1, 1]
    """
    key = jax.random.key(0) if key is None else key
    run = jax.jit(lambda variables, support, key: adapt(variables.params, variables.stats, support, key))

    @jax.jit
    def outputs(variables: Variables, x: Any) -> Any:
        return net.apply(variables, x, train=transductive, key=key if transductive else None)[0].output

    def learn(support: Batch) -> Predictor:
        y = np.asarray(support["y"])
        _check_rows(support["x"], y)
        weight = element_weights(y.shape, support.get("mask"), support.get("weights"))
        counted = y if weight is None else y[np.asarray(weight) > 0]
        if not counted.size:
            what = f"{len(y)} rows of which mask and weights keep none" if len(y) else "no rows"
            raise ValueError(f"the support set has {what}: give at least one labelled example")
        fast = Variables(*run(variables, dict(support), key))
        shape = jax.eval_shape(outputs, fast, support["x"])
        if np.issubdtype(y.dtype, np.integer) and isinstance(shape, jax.ShapeDtypeStruct):
            _check_labels(counted, shape.shape[-1])
        return lambda x: outputs(fast, x)

    return learn


def _check_rows(x: Any, y: np.ndarray) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(x)[0]:
        if np.shape(leaf)[:1] != y.shape[:1]:
            raise ValueError(
                f"x{jax.tree_util.keystr(path)} of the support set has the shape {np.shape(leaf)}, and its labels y"
                f" {y.shape}: give one label for each row"
            )


def _check_labels(y: np.ndarray, way: int) -> None:
    if y.min() < 0 or y.max() >= way:
        raise ValueError(
            f"labels of the support set run from {y.min()} to {y.max()}, and this network has {way} outputs:"
            f" number a task's classes from 0 to {way - 1}"
        )

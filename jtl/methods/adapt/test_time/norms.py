"""The parameters of normalisation layers, and networks that normalise with the statistics of their batch."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jtl._tracing import scope
from jtl.model import Model
from jtl.nn.layers import DropPath
from jtl.params import flatten, unflatten
from jtl.transform.intercept import Call, intercepted
from jtl.typing import Params, Tree


def norms(params: Params) -> Tree:
    """The mask of normalisation layers' scales and biases: BatchNorm, GroupNorm, LayerNorm and RMSNorm.

    A normalisation layer is one whose only parameters are a vector `scale` and optionally a `bias`.

    Args:
      params: a nested dict.

    Returns:
      A tree of booleans, for `trainable=`.

    Raises:
      ValueError: if there is no normalisation layer.

    Example:
      >>> import jtl
      >>> norm, dense = {"scale": 1.0, "bias": 0.0}, {"kernel": 1.0, "bias": 0.0}
      >>> jtl.test_time.norms({"norm": norm, "dense": dense})
      {'norm': {'scale': True, 'bias': True}, 'dense': {'kernel': False, 'bias': False}}
    """
    layers: dict[str, set[str]] = {}
    for path in flatten(params):
        layer, _, name = path.rpartition("/")
        layers.setdefault(layer, set()).add(name)
    inner = {above for layer in layers for above in scope.modules_of(layer)}
    chosen = {layer for layer, names in layers.items() if "scale" in names <= {"scale", "bias"} and layer not in inner}
    if not chosen:
        raise ValueError(
            f"no normalisation layer (a scale, and a bias or none) in {sorted(params)}: give trainable=jtl.select(...)"
        )
    return unflatten({path: path.rpartition("/")[0] in chosen for path in flatten(params)})


def by_batch(net: Model) -> Model:
    """The network in training mode without dropout, whose running statistics stay unchanged.

    BatchNorm then normalises by the mean and variance of the batch; a network without it gives the same output as in
    evaluation mode. Dropout, stochastic depth and the like are off, because they would add noise to the predictions.

    Args:
      net: any model.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> whole = jtl.test_time.by_batch(net)
    """
    quiet = without_dropout(net)

    def apply(variables: Any, x: Any, *, train: bool, key: Any = None) -> tuple:
        del train
        # Dropout layers are skipped; other random layers get a fixed key, so that predictions are a function of x.
        out, _ = quiet.apply(variables, x, train=True, key=jax.random.key(0) if key is None else key)
        return out, variables.stats

    return net._replace(apply=apply)


def without_dropout(net: Model) -> Model:
    """The network without dropout and stochastic depth, even in training mode."""
    seen = intercepted(net, _WithoutDropout, "")

    def apply(variables: Any, x: Any, *, train: bool, key: Any = None) -> tuple:
        with scope.without_dropout():
            return seen.apply(variables, x, train=train, key=key)

    return seen._replace(apply=apply)


class _WithoutDropout:
    count = 1  # the network need not have dropout layers

    def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        if isinstance(call.module, nn.Dropout | DropPath) and call.method == "__call__":
            return args[0]
        return run(*args, **kwargs)

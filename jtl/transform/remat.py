"""Gradient checkpointing: less memory at the cost of a second forward pass."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array

from jtl.model import Model
from jtl.transform.intercept import Call, intercepted


def checkpointed(model: Model) -> Model:
    """The same model with rematerialised blocks: activations are recomputed for the gradient, not stored.

    A block is a flax module named `block1`, `block2`, ..., as in all backbones with blocks. Values, gradients and
    random draws stay the same; a step costs up to one more forward pass, and stores only the blocks' inputs, not their
    activations. (On a CPU, XLA discards the order that saves memory unless the environment has
    `XLA_FLAGS=--xla_disable_hlo_passes=cse_barrier_expander`.)

    Args:
      model: a model of `from_linen`, or made of such models.

    Raises:
      ValueError: when called, if there is no block.

    Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174.

    Example:
      >>> import jtl
      >>> body = jtl.checkpointed(jtl.backbones.resnet((1, 1), width=8))
    """
    return intercepted(
        model, _Blocks, "there is no module named block1, block2, ... whose values could be computed again"
    )


class _Blocks:
    """Runs each block under `jax.checkpoint`, with its variables and random streams, and counts them."""

    def __init__(self):
        self.count, self.within = 0, False

    def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        module = call.module
        if self.within or call.method != "__call__" or not re.fullmatch(r"block\d+", module.name or ""):
            return run(*args, **kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))
        traced = [isinstance(leaf, jax.Array) for leaf in leaves]  # the rest, such as `train`, is known while tracing

        def again(module: Any, *arrays: Array) -> Any:
            given = iter(arrays)
            full = [next(given) if is_array else leaf for leaf, is_array in zip(leaves, traced, strict=True)]
            args, kwargs = jax.tree.unflatten(tree, full)
            return module(*args, **kwargs)

        self.count, self.within = self.count + 1, True
        try:
            return nn.remat(again)(module, *(leaf for leaf, is_array in zip(leaves, traced, strict=True) if is_array))
        finally:
            self.within = False

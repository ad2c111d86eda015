"""Removes the operations of a function that its results do not need."""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun, valid_jaxtype
from jax.interpreters.partial_eval import dce_jaxpr


def pruned(make: Callable[..., Any], *args: Any) -> Any:
    """`make(*args)`, bit-equal, without the operations that its results do not need.

    The remaining operations run one at a time, as they would have: one jitted program is as fast, but rounds
    differently. Under a trace `make` is simply called, because the outer trace removes unneeded operations itself. It
    is also simply called if an argument is not an array, because `make` then raises the better error.

    Args:
      make: a function that `jax.jit` could take.
      *args: trees of arrays.
    """
    if any(isinstance(leaf, Tracer) or not valid_jaxtype(leaf) for leaf in jax.tree.leaves(args)):
        return make(*args)
    traced, shapes = jax.make_jaxpr(make, return_shape=True)(*args)
    needed, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars), instantiate=True)
    found = jaxpr_as_fun(traced.replace(jaxpr=needed))(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), found)

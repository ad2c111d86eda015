"""Puts batches where a model's variables are, for functions that compute with both outside of a train step."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding


def near(variables: Any) -> Callable[[Any], Any]:
    """Returns a function that copies arrays to the devices of the variables if they are committed to other ones.

    jax refuses to compute with arrays that are committed to different devices, such as variables on a mesh and a batch
    on one of its devices. Every device of a mesh gets the whole batch, so any number of rows fits. All other arrays are
    returned as they are, because jax moves them itself.

    Args:
      variables: a tree of arrays.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.methods.near import near
      >>> near({"kernel": jnp.ones((5, 2))})({"x": jnp.zeros((4, 5))})["x"].shape
      (4, 5)
    """
    held = [leaf for leaf in jax.tree.leaves(variables) if isinstance(leaf, jax.Array) and leaf.committed]
    here = held[0].sharding if held else None
    if isinstance(here, NamedSharding):
        where = NamedSharding(here.mesh, PartitionSpec())
    elif isinstance(here, SingleDeviceSharding):
        where = here
    else:
        return lambda tree: tree

    def put(leaf: Any) -> Any:
        elsewhere = isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding.device_set != where.device_set
        return jax.device_put(leaf, where) if elsewhere else leaf

    return lambda tree: jax.tree.map(put, tree)

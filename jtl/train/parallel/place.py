"""Placement of arrays on the devices of all processes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def place(tree: Any, where: Any) -> Any:
    """`jax.device_put`, also for typed keys, onto shardings that span processes.

    Args:
      tree: arrays; an array that does not span processes must have the same values in every process.
      where: a sharding for all leaves, or a tree of them.
    """

    def put(leaf, sharding):
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda rows: values[rows])

    one = isinstance(where, jax.sharding.Sharding)
    return jax.tree.map(put, tree, jax.tree.map(lambda _: where, tree) if one else where)

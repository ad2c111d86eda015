"""What backbones of text share."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from jtl.nn.layers import described


def check_texts(x: Any) -> tuple[Array, Array, Array]:
    """(ids, mask, types) of an input, each [batch, tokens]; all types are 0 where it has none.

    Tokens that are there and have ids below 0 make NaN of their text, as do ids beyond the vocabulary.

    Raises:
      ValueError: where it is no dict of them, or they are of other numbers or shapes.
    """
    if not isinstance(x, Mapping) or not {"ids", "mask"} <= set(x) <= {"ids", "mask", "types"}:
        raise ValueError(f"the input is {described(x)}: give a dict of 'ids', 'mask' and, for pairs, 'types'")
    ids, mask = jnp.asarray(x["ids"]), jnp.asarray(x["mask"])
    types = jnp.asarray(x["types"]) if "types" in x else jnp.zeros_like(ids)
    if not (jnp.issubdtype(ids.dtype, jnp.integer) and jnp.issubdtype(types.dtype, jnp.integer) and mask.dtype == bool):
        raise ValueError(f"ids, mask, types are {ids.dtype}, {mask.dtype}, {types.dtype}: give int32, bool, int32")
    if ids.ndim != 2 or not ids.shape == mask.shape == types.shape or not ids.shape[1]:
        raise ValueError(f"ids, mask, types have shapes {ids.shape}, {mask.shape}, {types.shape}: give [batch, tokens]")
    return jnp.where(mask, beyond(ids), ids), mask, types


def beyond(ids: Int[Array, "batch tokens"]) -> Int[Array, "batch tokens"]:
    """Ids below 0 as ids that no vocabulary has: looked up, -1 would be the last word, and those are NaN."""
    return jnp.where(ids < 0, jnp.iinfo(ids.dtype).max, ids)

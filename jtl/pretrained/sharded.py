"""Loads weights directly onto a mesh, so that no process holds more of them than its devices do."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from jtl.model import Variables
from jtl.params import flatten, unflatten
from jtl.weights.mapping.cast import own

Where = Sharding | Callable[[Variables], Variables]
"""One sharding for all variables, or a function from all shapes to a tree of shardings."""


def places(where: Where, shapes: Mapping[str, Any]) -> dict[str, Sharding]:
    """Returns the sharding of each path.

    Args:
      where: a sharding, or a function such as `jtl.variables_sharding(mesh, rules)`.
      shapes: path -> shape and type.

    Raises:
      ValueError: naming paths that get no sharding.
    """
    if isinstance(where, Sharding):
        return dict.fromkeys(shapes, where)
    tree = unflatten(shapes)
    stats = tree.pop("stats", {})
    found = where(Variables(tree, stats))
    placed = flatten({**found.params, "stats": found.stats})
    missing = [path for path in shapes if not isinstance(placed.get(path), Sharding)]
    if missing:
        raise ValueError(f"sharding= gives no Sharding for {len(missing)} parameters: {', '.join(missing[:8])}")
    return {path: placed[path] for path in shapes}


def put(array: np.ndarray, dtype: Any, place: Sharding) -> jax.Array:
    """Puts an array on its devices; each slice is copied once from `array`, which may be a view of a file."""
    copies: dict[str, np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
        if str(index) not in copies:
            copies[str(index)] = own(array[index], dtype)
        return copies[str(index)]

    return jax.make_array_from_callback(array.shape, place, part)

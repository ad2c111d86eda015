"""Initialises the parameters that a file lacks, to the values of `jtl.network(...).init`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import rng
from jtl.model import Model
from jtl.networks import network
from jtl.params import flatten
from jtl.typing import Key


def drawn(
    key: Key | None,
    backbone: Model,
    head: Model,
    example: Any,
    paths: Sequence[str],
    wanted: Mapping[str, Any],
    where: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns initial values of some parameters, computed under jit, so that no others are computed.

    Args:
      key: the key for `network.init`; None for `jax.random.key(0)`.
      backbone: the backbone, whose parameters are under `backbone/`.
      head: the head, whose parameters are under `head/`; for its parameters alone, the backbone is not traced.
      example: shapes and types of an input.
      paths: the paths of the parameters to initialise.
      wanted: path -> shape and type, for all parameters.
      where: path -> sharding; None for NumPy arrays.
    """
    if not paths:
        return {}
    key = jax.random.key(0) if key is None else key
    # A head on anything but a vector is initialised on the output of the backbone.
    alone = all(path.startswith("head/") for path in paths) and head.reads.form == "vector"

    def some(key: Key, x: Any) -> dict[str, jax.Array]:
        if alone:
            tree: dict[str, Any] = {"head": head.init(rng.stream(key, "head"), x).params}
        else:
            made = network(backbone=backbone, head=head).init(key, x)
            tree = {**made.params, "stats": made.stats}
        flat = flatten(tree)
        return {path: flat[path].astype(wanted[path].dtype) for path in paths}

    # Each layer of a family's head takes its own part of the features.
    width = sum(leaf.shape[0] for path, leaf in wanted.items() if re.fullmatch("head/.*/kernel", path))
    like = jax.ShapeDtypeStruct((1, width), jnp.float32) if alone else example
    x = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
    if where is not None:
        return jax.jit(some, out_shardings={path: where[path] for path in paths})(key, x)
    return {path: np.asarray(a) for path, a in jax.jit(some)(key, x).items()}

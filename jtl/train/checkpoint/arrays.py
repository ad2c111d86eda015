"""The leaves of a state by name, and folders of arrays written by Orbax."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from jtl.train.state import State
from jtl.weights.formats.orbax_arrays import grouped


def named(state: State) -> dict[str, Any]:
    """Every leaf by its path: `params/head/kernel`, `opt/0/0/mu/head/kernel`, `key`."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def described(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Shape and type of each leaf, as a manifest stores them."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in leaves.items()}


def compare(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Checks that a checkpoint's leaves are those of a state.

    Raises:
      ValueError: for leaves with other names, shapes or types; both sides are named.
    """
    hint = "; parameters alone are restored by variables()"
    for name, leaf in wanted.items():
        if name not in stored:
            raise ValueError(f"{folder} does not hold {name!r}, which this state has{hint}")
        shape, dtype = stored[name]
        if tuple(shape) != leaf.shape or dtype != str(leaf.dtype):
            raise ValueError(f"{name!r} is {dtype}{tuple(shape)} in {folder} and {leaf.dtype}{leaf.shape} here{hint}")
    extra = sorted(stored.keys() - wanted.keys())
    if extra:
        raise ValueError(f"{folder} holds {extra[0]!r} and {len(extra) - 1} more leaves that this state has not{hint}")


def frozen(leaves: Mapping[str, Any], trains: Mapping[str, bool] | None) -> dict[str, Any]:
    """The parameters among a state's leaves that a run does not train; arrays without elements are not among them.

    Raises:
      ValueError: if `trains` is about other parameters.
    """
    if trains is None:
        return {}
    params = {name.removeprefix("params/") for name in leaves if name.startswith("params/")}
    if params != trains.keys():
        other = sorted(params ^ trains.keys())
        raise ValueError(f"trains and the parameters differ at {other[0]!r}: give step.trains(state.params)")
    found = {f"params/{path}": leaves[f"params/{path}"] for path, learns in trains.items() if not learns}
    return {name: leaf for name, leaf in found.items() if leaf.size}


def write_later(folder: Path, leaves: Mapping[str, jax.Array]) -> Any:
    """Copies arrays off the devices and writes them in the background; `result()` waits until they are written.

    Orbax writes no array without elements, such as a factor of rank 0; the manifest has its shape, which is all of it.
    """
    context = ocp.Context()
    # If a parent is renamed while Orbax makes folders in the background, its threads block the process for minutes.
    context.async_options.create_directories_asynchronously = False
    with context:
        numbers = grouped({name: raw(leaf) for name, leaf in leaves.items() if leaf.size})
        return ocp.save_checkpointables_async(str(folder / "arrays"), numbers)


def raw(leaf: Any) -> Any:
    """A key as its numbers; any other leaf as it is."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape, type and sharding that `load` reads for a leaf of a state."""
    numbers = jax.eval_shape(raw, leaf)
    return jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=leaf.sharding)

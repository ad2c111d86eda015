"""Folders of arrays written by Orbax, read by name."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.params import flatten, unflatten
from jtl.weights.formats.errors import WeightFileError

APART = ("params", "stats")
"""The groups that can be read without the rest of a state."""


_WIDE = ("int64", "uint64", "float64", "complex128")


def grouped(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Separates parameters, statistics and the rest, so that each can be read alone."""
    groups: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        top = name.split("/")[0]
        groups.setdefault(top if top in APART else "rest", {})[name] = leaf
    return {group: unflatten(part) for group, part in groups.items()}


def load(
    folder: Path, shapes: Mapping[str, jax.ShapeDtypeStruct], *, part: bool = False, host: bool = False
) -> dict[str, Any]:
    """Reads arrays by name, with the types of `shapes`, and places each by its sharding.

    Args:
      folder: folder of one checkpoint; Orbax's own is `arrays` in it.
      shapes: shapes of all arrays of a group, or of some.
      part: whether they are only some.
      host: whether to return NumPy arrays instead, whatever jax's settings are; shapes then need no sharding.

    Raises:
      WeightFileError: if Orbax fails to read them, with its version and the beginning of its message.
      ValueError: for types of 64 bits while `jax_enable_x64` is off, which jax would narrow; not for NumPy arrays.
      OSError: if the file system fails, which is not the checkpoint's fault; likewise MemoryError and jax's own errors.
    """
    if not shapes:
        return {}
    if bare := {name: s for name, s in shapes.items() if 0 in s.shape}:  # these are in no file
        rest = {name: s for name, s in shapes.items() if name not in bare}
        empty = {n: np.empty(s.shape, s.dtype) if host else jnp.empty(s.shape, s.dtype) for n, s in bare.items()}
        placed = empty if host else {n: jax.device_put(a, bare[n].sharding) for n, a in empty.items()}
        return placed | load(folder, rest, part=part, host=host)
    narrowed = [name for name, s in shapes.items() if not host and jax.dtypes.canonicalize_dtype(s.dtype) != s.dtype]
    if narrowed:
        raise ValueError(
            f"{folder}: {narrowed[0]!r} is of type {shapes[narrowed[0]].dtype}, which jax would narrow to 32 bits,"
            " because jax_enable_x64 is off: read it inside `with jax.enable_x64(True):`, or set it for the whole"
            " process at its start, jax.config.update('jax_enable_x64', True)"
        )
    # Orbax's threads do not have the caller's `with jax.enable_x64(True)`: they would narrow the arrays that they put
    # on devices.
    by_numpy = {name for name, shape in shapes.items() if host or np.dtype(shape.dtype).name in _WIDE}
    asked = {name: np.empty(s.shape, s.dtype) if name in by_numpy else s for name, s in shapes.items()}
    found = _read(folder, asked, part)
    if host:
        return found
    return {name: _put(a, shapes[name].sharding) if name in by_numpy else a for name, a in found.items()}


def _put(array: np.ndarray, sharding: Any) -> jax.Array:
    """Puts a NumPy array on devices by a sharding, under the settings of this thread."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _read(folder: Path, asked: Mapping[str, Any], part: bool) -> dict[str, Any]:
    """Lets Orbax read: a NumPy array for each entry asked for as one, a jax array for each shape."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.pytree.loading.partial_load = part
    try:
        found: dict[str, Any] = {}
        for group, wanted in grouped(asked).items():  # if one of several fails, Orbax leaves the others unfinished
            with context:
                loaded = ocp.load_checkpointables(str((folder / "arrays").absolute()), {group: wanted})
            found |= flatten(loaded[group])
        for name, like in asked.items():  # an array that is not there comes back as the placeholder
            kind = np.ndarray if isinstance(like, np.ndarray) else jax.Array
            if not isinstance(found.get(name), kind) or found[name] is like:
                raise KeyError(f"no array {name!r}")
            if found[name].dtype != like.dtype:
                raise TypeError(f"{name!r} came as {found[name].dtype}, and {like.dtype} was asked for")
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # whatever Orbax raises: the checkpoint does not match its manifest
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightFileError(
            f"{folder}: its files are those that were written, but Orbax {version('orbax-checkpoint')} does not read"
            f" the arrays in them ({said[:200]}{'…' * (len(said) > 200)}). Read them with the version that wrote them,"
            " which its manifest names under 'versions'; or delete the folder, and the checkpoint before it is the"
            " newest"
        ) from error
    return found

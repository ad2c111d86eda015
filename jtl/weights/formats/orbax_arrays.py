"""Folders of arrays as Orbax writes them, read by name."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jtl.params import flatten, unflatten
from jtl.weights.formats.errors import WeightFileError

APART = ("params", "stats")
"""What can be read without the rest of a state."""


def grouped(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, statistics and the rest apart, so that each can be read alone."""
    groups: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        top = name.split("/")[0]
        groups.setdefault(top if top in APART else "rest", {})[name] = leaf
    return {group: unflatten(part) for group, part in groups.items()}


def load(folder: Path, shapes: Mapping[str, jax.ShapeDtypeStruct], *, part: bool = False) -> dict[str, jax.Array]:
    """Arrays by name, where the sharding of each `shapes` puts it.

    Args:
      folder: of one checkpoint; Orbax's own is `arrays` in it.
      shapes: of all arrays of a group, or of some.
      part: whether they are some.

    Raises:
      WeightFileError: where Orbax does not read them, with its version and the beginning of what it says.
      OSError: where the file system fails, which is no fault of the checkpoint; as MemoryError and jax's own errors.
    """
    if not shapes:
        return {}
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.pytree.loading.partial_load = part
    try:
        found: dict[str, Any] = {}
        for group, wanted in grouped(shapes).items():  # where one of several fails, Orbax leaves the others unfinished
            with context:
                loaded = ocp.load_checkpointables(str((folder / "arrays").absolute()), {group: wanted})
            found |= flatten(loaded[group])
        absent = [name for name in shapes if not isinstance(found.get(name), jax.Array)]
        if absent:  # what is not there comes back as the shape that was asked for
            raise KeyError(f"no array {absent[0]!r}")
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # whatever Orbax raises: the checkpoint is not what its manifest says
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

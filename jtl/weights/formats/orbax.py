"""Parameters and statistics of a run that `jtl.Checkpoints` saved, by their paths."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from jtl.weights.formats.errors import WeightFileError, in_file, show
from jtl.weights.formats.lazy_tensors import Entry, Tensors
from jtl.weights.formats.safetensors import parse_json
from jtl.weights.formats.source import Source, check_shape
from jtl.weights.mapping.convert import flatten, unflatten

MANIFEST = "manifest.json"
MAX_MANIFEST = 64 << 20  # bytes


def newest(folder: Path) -> Path | None:
    """The checkpoint that a folder is, or the newest finished one in it; None where it has none."""
    if (folder / MANIFEST).is_file() and (folder / "arrays").is_dir():
        return folder
    steps = [p.parent for p in folder.glob(f"step_*/{MANIFEST}") if re.fullmatch(r"step_\d{8,}", p.parent.name)]
    return max(steps, key=lambda step: int(step.name[5:]), default=None)


def read_checkpoint(folder: Path) -> Tensors:
    """`backbone/...`, `head/...` and `stats/...` of one checkpoint; the optimizer's state is left.

    Args:
        folder: of one step, with its manifest.

    Raises:
        WeightFileError: the manifest is malformed, or the arrays beside it cannot be read.
    """
    source = Source(folder / MANIFEST)
    with in_file(source.path):
        if source.size > MAX_MANIFEST:
            raise WeightFileError(f"has {source.size} bytes; at most {MAX_MANIFEST} are read")
        body = parse_json(source.bytes(0, source.size))
        leaves = body.get("leaves") if isinstance(body, dict) else None
        if not isinstance(leaves, dict):
            raise WeightFileError("is no manifest of a checkpoint: it has no leaves")
        wanted = {
            name: _described(name, leaf) for name, leaf in leaves.items() if name.startswith(("params/", "stats/"))
        }
    load = _loader(folder, wanted)
    entries = {name.removeprefix("params/"): Entry(*wanted[name], _one(load, name)) for name in wanted}
    return Tensors(folder, entries)


def _described(name: str, leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    if not isinstance(leaf, list) or len(leaf) != 2 or not isinstance(leaf[0], list) or not isinstance(leaf[1], str):
        raise WeightFileError(f"{show(name)} must be described by its shape and its type")
    try:
        dtype = np.dtype(leaf[1])  # ml_dtypes, imported by st_file, tells NumPy what bfloat16 is
    except TypeError:
        raise WeightFileError(f"{show(name)} has the type {show(leaf[1])}, which NumPy has not") from None
    return check_shape(leaf[0], dtype.itemsize, show(name)), dtype


def _one(load: Callable[[], dict[str, np.ndarray]], name: str) -> Callable[[], np.ndarray]:
    return lambda: load()[name]


def _loader(folder: Path, wanted: dict[str, tuple[tuple[int, ...], np.dtype]]) -> Callable[[], dict[str, np.ndarray]]:
    """Reads all arrays at once, when the first is asked for: Orbax is slow to read them one by one."""
    lock = Lock()

    @cache
    def load() -> dict[str, np.ndarray]:
        import jax
        from jax.sharding import SingleDeviceSharding
        from orbax.checkpoint import v1 as ocp

        place = SingleDeviceSharding(jax.local_devices()[0])
        groups: dict[str, dict[str, Any]] = {}
        for name, (shape, dtype) in wanted.items():
            leaf = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
            groups.setdefault(name.partition("/")[0], {})[name] = leaf
        trees = {top: unflatten(part) for top, part in groups.items()}
        try:
            found = ocp.load_checkpointables(str((folder / "arrays").absolute()), trees)
        except Exception as error:  # whatever Orbax raises: the checkpoint is not what its manifest says
            raise WeightFileError(f"{folder}: Orbax does not read its arrays: {str(error)[:300]}") from error
        return {name: np.asarray(leaf) for group in found.values() for name, leaf in flatten(group)}

    def once() -> dict[str, np.ndarray]:
        with lock:
            return load()

    return once

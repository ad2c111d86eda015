"""Parameters and statistics of a run that `jtl.Checkpoints` saved, by their paths."""

import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from jtl.weights.formats import orbax_arrays
from jtl.weights.formats.errors import WeightFileError, in_file, show
from jtl.weights.formats.lazy_tensors import Entry, Tensors
from jtl.weights.formats.safetensors import parse_json
from jtl.weights.formats.sealed import FROZEN, MANIFEST, fault, seal
from jtl.weights.formats.source import ByteSource, check_shape

MAX_MANIFEST = 64 << 20  # bytes
TOPS = ("params/", "stats/", "ema/")

log = logging.getLogger("jtl.checkpoint")


def newest(folder: Path) -> Path | None:
    """The folder itself if it is a checkpoint, else the newest finished one in it; None if there is none."""
    return next(iter(_candidates(folder)), None)


def holds(folder: Path) -> bool:
    """Whether a folder contains finished checkpoints; a checkpoint itself contains none."""
    return newest(folder) not in (None, folder)


def read_checkpoint(folder: Path) -> Tensors:
    """`backbone/...`, `head/...` and `stats/...` of one checkpoint; the optimizer's state is not read.

    If the run keeps moving averages of parameters (`make_step(ema=...)`), these are read in place of the parameters,
    because the run's validation used them; the log "jtl.checkpoint" says so. Every file is read and compared with its
    checksum in the manifest. A damaged checkpoint of a run is named in the same log, and the one before it is read, as
    by `jtl.Checkpoints`.

    Args:
      folder: folder of a run, or of one step, which must be intact.

    Raises:
      WeightFileError: the manifest is malformed, or the files differ from those that were written.
    """
    *others, last = _candidates(folder)
    for step in others:
        try:
            return _read(step)
        except WeightFileError as error:
            log.warning("checkpoint %s is damaged and not used: %s", step, error)
    return _read(last)


def _candidates(folder: Path) -> list[Path]:
    if (folder / MANIFEST).is_file() and (folder / "arrays").is_dir():
        return [folder]
    steps = [p.parent for p in folder.glob(f"step_*/{MANIFEST}") if re.fullmatch(r"step_\d{8,}", p.parent.name)]
    return sorted(steps, key=lambda step: int(step.name[5:]), reverse=True)


def _read(folder: Path) -> Tensors:
    body, leaves = _sealed(folder)
    parts = {folder: leaves}
    name = body.get("frozen")
    if name is not None:
        if not isinstance(name, str) or not FROZEN.fullmatch(name):
            raise WeightFileError(
                f"{folder / MANIFEST}: names the frozen parameters {show(name)}; no folder is so named"
            )
        beside = folder.absolute().parent / name
        if not (beside / MANIFEST).is_file():
            raise WeightFileError(f"{folder} needs the frozen parameters of {beside}, which is missing or not finished")
        parts[beside] = _sealed(beside)[1]
        parts[folder] = {n: leaf for n, leaf in leaves.items() if n not in parts[beside]}
    found: dict[str, Entry] = {}
    for part, wanted in parts.items():
        load = _loader(part, wanted)
        load()  # Orbax may fail although all checksums match; then the step before is read
        found |= {n: Entry(*leaf, _one(load, n)) for n, leaf in wanted.items()}
    averaged = [n for n in leaves if n.startswith("ema/")]
    for name in averaged:
        _average(folder, found, name)
    if averaged:
        log.info("%s: the moving averages of %d parameters are read, not their last values", folder, len(averaged))
    return Tensors(folder, {n.removeprefix("params/"): found[n] for n in leaves if n not in averaged})


def _average(folder: Path, found: dict[str, Entry], name: str) -> None:
    """Puts a moving average in place of its parameter, rounded to the parameter's type."""
    own, average = f"params/{name.removeprefix('ema/')}", found[name]
    if own not in found or found[own].shape != average.shape:
        raise WeightFileError(f"{folder / MANIFEST}: {show(name)} is the average of no parameter of its shape")
    dtype = found[own].dtype
    found[own] = Entry(average.shape, dtype, lambda: average.read().astype(dtype))


def _sealed(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], np.dtype]]]:
    """Checks a folder's files; returns its manifest, and the parameters and statistics in it."""
    source = ByteSource(folder / MANIFEST)
    with in_file(source.path):
        if source.size > MAX_MANIFEST:
            raise WeightFileError(f"has {source.size} bytes; at most {MAX_MANIFEST} are read")
        body = parse_json(source.bytes(0, source.size))
        leaves = body.get("leaves") if isinstance(body, dict) else None
        if not isinstance(body, dict) or not isinstance(leaves, dict):
            raise WeightFileError("is no manifest of a checkpoint: it has no leaves")
        wanted = {name: _described(name, leaf) for name, leaf in leaves.items() if name.startswith(TOPS)}
        stored = body.pop("crc32", None)
        if stored != seal(body):
            raise WeightFileError("was changed after it was written: its checksum is not the one written")
        files = body.get("files")
        if not isinstance(files, dict) or not all(_is_file(name, told) for name, told in files.items()):
            raise WeightFileError("must give the size and the checksum of each file, by its path in the folder")
    what = fault(folder, files)
    if what is not None:
        raise WeightFileError(f"{folder} is damaged: {what}")
    return body, wanted


def _is_file(name: str, told: Any) -> bool:
    numbers = isinstance(told, list) and len(told) == 2 and all(type(number) is int for number in told)
    return numbers and re.fullmatch(r"[\w./+~-]{1,250}", name) is not None


def _described(name: str, leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    if not isinstance(leaf, list) or len(leaf) != 2 or not isinstance(leaf[0], list) or not isinstance(leaf[1], str):
        raise WeightFileError(f"{show(name)} must be described by its shape and its type")
    try:
        dtype = np.dtype(leaf[1])  # ml_dtypes, imported by st_file, registers bfloat16 with NumPy
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

        shapes = {name: jax.ShapeDtypeStruct(*leaf) for name, leaf in wanted.items()}
        return orbax_arrays.load(folder, shapes, part=True, host=True)  # without the optimizer's state

    def once() -> dict[str, np.ndarray]:
        with lock:
            return load()

    return once

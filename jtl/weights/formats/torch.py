"""PyTorch's `.pth`, `.pt`, `.th` and `.bin` files, without PyTorch and without unpickling.

Since 1.6 such a file is a zip: `NAME/data.pkl` describes the content, `NAME/data/KEY` holds each storage. Before, it
was four small pickles (a magic number, the version, the machine, the value), a fifth with the storages' keys, and then
the length and numbers of each storage.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from jtl.weights.formats.errors import WeightFileError, in_file, show
from jtl.weights.formats.lazy_tensors import Tensors
from jtl.weights.formats.source import ByteSource
from jtl.weights.formats.torch_pickle import MAX_PICKLE, Machine
from jtl.weights.formats.torch_state_dict import find_tensors
from jtl.weights.formats.torch_tensors import Kind, Storage
from jtl.weights.formats.zip import Archive

MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little")


def read_torch(path: Path, within: str | None = None) -> Tensors:
    """The state dict in a PyTorch file.

    Args:
      path: the file, of either format.
      within: its place in the saved data, such as "model" or "checkpoint/state_dict"; None searches for it, and raises
        if several dicts of tensors could be meant.

    Returns:
      Name to array, read on access.

    Raises:
      WeightFileError: the file is damaged, holds anything other than data, or has no tensors at `within`.
    """
    source = ByteSource(path)
    with in_file(path):
        tree, starts = _parse(source)
        views = find_tensors(tree, within)
        return Tensors(
            path,
            {name: view.entry(source, starts) for name, view in views.items()},
        )


def _parse(source: ByteSource) -> tuple[object, Mapping[str, int]]:
    """Returns the tree of views, and where each storage starts in the file."""
    start = source.bytes(0, min(source.size, len(LEGACY_START)))
    if start[:4] == b"PK\x03\x04":
        return _parse_zip(source)
    if start == LEGACY_START:
        return _parse_legacy(source)
    raise WeightFileError("is no PyTorch file: it starts neither as a zip nor with PyTorch's magic number")


def _parse_zip(source: ByteSource) -> tuple[object, Mapping[str, int]]:
    archive = Archive(source)
    found = [name for name in archive.members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise WeightFileError(f"holds {len(found)} members NAME/data.pkl; a PyTorch file holds one")
    folder = found[0][: -len("data.pkl")]
    if folder + "byteorder" in archive.members:
        offset, count = archive.stored(folder + "byteorder")
        order = source.bytes(offset, min(count, 16))
        if order != b"little":
            raise WeightFileError(f"has byte order {order!r}; only little-endian files are read")
    offset, count = archive.stored(found[0])
    starts: dict[str, int] = {}

    def place(storage: Storage) -> None:
        starts[storage.key], held = archive.stored(folder + "data/" + storage.key)
        if held < storage.nbytes:
            raise WeightFileError(
                f"storage {show(storage.key)} needs {show(storage.nbytes)} bytes, but its member holds {held}"
            )

    machine = Machine(_small(source, offset, count), source.size, partial(_storage, place=place))
    return machine.run(), starts


def _parse_legacy(source: ByteSource) -> tuple[object, Mapping[str, int]]:
    sizes: dict[str, int] = {}
    items: dict[str, int] = {}

    def place(storage: Storage) -> None:
        if sizes.setdefault(storage.key, storage.nbytes) != storage.nbytes:
            raise WeightFileError(f"storage {show(storage.key)} is given two sizes")
        items[storage.key] = storage.dtype.itemsize

    machine = Machine(source.bytes(0, min(source.size, MAX_PICKLE)), source.size, partial(_storage, place=place))
    machine.run()  # the magic number, already checked
    version, system = machine.run(), machine.run()
    if version != 1001:
        raise WeightFileError(f"is of version {show(version)} of PyTorch's old format; 1001 is read")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightFileError("was written on a big-endian machine; only little-endian files are read")
    tree, keys = machine.run(), machine.run()
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or set(keys) != set(sizes):
        raise WeightFileError("lists other storages than its tensors use; it is damaged")
    starts: dict[str, int] = {}
    at = machine.at
    for key in keys:
        count = int.from_bytes(source.bytes(at, 8), "little", signed=True)
        if count * items[key] != sizes[key]:
            raise WeightFileError(f"storage {show(key)} has {show(count)} elements where {sizes[key]} bytes are due")
        if key in starts:
            raise WeightFileError(f"lists the storage {show(key)} twice")
        starts[key] = at + 8
        at += 8 + sizes[key]
    if at > source.size:
        raise WeightFileError(f"needs {show(at)} bytes, but has {source.size}; it is cut short")
    return tree, starts


def _small(source: ByteSource, offset: int, count: int) -> bytes:
    if count > MAX_PICKLE:
        raise WeightFileError(f"its pickle has {count} bytes; at most {MAX_PICKLE} are read")
    return source.bytes(offset, count)


def _storage(reference: object, place: Callable[[Storage], None]) -> Storage:
    """Makes a storage from PyTorch's reference ("storage", type, key, device, count[, None])."""
    if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
        raise WeightFileError("refers to something other than a storage; save the weights alone, not the module")
    _, kind, key, _device, count = reference[:5]
    if reference[5:] not in ((), (None,)):
        raise WeightFileError("has a storage that is a part of another, as PyTorch before 0.4 wrote; save it again")
    if not isinstance(kind, Kind) or not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 56:
        raise WeightFileError(f"has a storage of {show(kind)} with key {show(key)} and {show(count)} elements")
    storage = Storage(key, np.dtype(kind.dtype), count)
    place(storage)
    return storage

"""NumPy's `.npz`: a zip of `.npy` files, each a short header and an array."""

import re
import zipfile
import zlib
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jtl.weights.formats.errors import WeightFileError, in_file, show
from jtl.weights.formats.lazy_tensors import Entry, Tensors
from jtl.weights.formats.source import ByteSource, aligned_empty, check_shape
from jtl.weights.formats.zip import Archive

MAX_HEADER = 10_000  # bytes
# The errors that zipfile and zlib raise on damaged bytes; an unknown version or method is a NotImplementedError.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError)
HEADER = re.compile(
    r"\s*\{\s*'descr':\s*(?P<descr>'[^']*'|\[.*\])\s*,\s*'fortran_order':\s*(?P<fortran>True|False)\s*,"
    r"\s*'shape':\s*\((?P<shape>[\d,\sL]*)\)\s*,?\s*\}\s*",
    re.DOTALL,
)


def read_npz(path: Path) -> Tensors:
    """The arrays of an `.npz` file, plain or compressed.

    Arrays of two-byte voids are read as bfloat16, because NumPy writes JAX's bfloat16 arrays like that.

    Args:
      path: the file.

    Returns:
      Name to array, read on access.

    Raises:
      WeightFileError: the file is damaged, or an array holds Python objects.
    """
    source = ByteSource(path)
    with in_file(path):
        archive = Archive(source)
        archive.check_total_expansion()
        entries: dict[str, Entry] = {}
        for member in archive.members:
            if not member.endswith(".npy"):
                raise WeightFileError(f"holds the member {show(member)}; every member of an .npz ends in .npy")
            archive.check_expansion(member)
            with in_file(Path(member)):
                entries[member[: -len(".npy")]] = _entry(archive, member)
        return Tensors(path, entries)


def _entry(archive: Archive, member: str) -> Entry:
    info = archive.member(member)
    try:
        with archive.opened(member) as file:
            dtype, fortran, shape, start = _header(file)
    except WeightFileError:
        raise
    except DAMAGED as error:
        raise WeightFileError(f"cannot be read ({str(error)[:200]})") from None
    if info.file_size - start != prod(shape) * dtype.itemsize:
        raise WeightFileError(
            f"the array of shape {shape} and type {dtype} needs {prod(shape) * dtype.itemsize} bytes, "
            f"but {info.file_size - start} are there"
        )
    return Entry(shape, dtype.newbyteorder("="), partial(_read, archive, member, dtype, fortran, shape, start))


def _header(file: Any) -> tuple[np.dtype, bool, tuple[int, ...], int]:
    """Returns the number type, whether the first axis varies fastest, the shape, and where the numbers start."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise WeightFileError("is no .npy file")
    if start[6] not in (1, 2, 3):
        raise WeightFileError(f"is of version {start[6]} of the .npy format; 1 to 3 are read")
    wide = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(wide), "little")
    if length > MAX_HEADER:
        raise WeightFileError(f"its header has {length} bytes; at most {MAX_HEADER} are read")
    text = file.read(length).decode("latin-1")
    found = HEADER.fullmatch(text)
    if len(text) < length or found is None:
        raise WeightFileError("its header is malformed")
    sizes = [part.strip().rstrip("L") for part in found["shape"].split(",") if part.strip()]
    if not all(part.isdigit() and len(part) < 20 for part in sizes):
        raise WeightFileError("its header has a malformed shape")
    dtype = _dtype(found["descr"])
    return (
        dtype,
        found["fortran"] == "True",
        check_shape([int(s) for s in sizes], dtype.itemsize, "the array"),
        (8 + wide + length),
    )


def _dtype(descr: str) -> np.dtype:
    kind = descr[1:-1]
    if re.fullmatch(r"[|<>]?O\d*", kind):
        raise WeightFileError("holds Python objects (dtype object), which only unpickling could read; it is refused")
    if kind in ("|V2", "<V2"):
        return np.dtype(ml_dtypes.bfloat16)
    if not re.fullmatch(r"[|<>=](b1|[iu][1248]|f[248]|c(8|16))", kind):
        raise WeightFileError(f"has number type {show(descr)}; those read are truth values, integers and floats")
    return np.dtype(kind)


def _read(
    archive: Archive, member: str, dtype: np.dtype, fortran: bool, shape: tuple[int, ...], start: int
) -> np.ndarray:
    info = archive.member(member)
    stored = shape[::-1] if fortran else shape
    with in_file(archive.source.path), in_file(Path(member)):
        if info.compress_type == zipfile.ZIP_STORED:
            array = archive.source.array(archive.start(member) + start, stored, dtype)
        else:
            array = _inflate(archive, member, start, aligned_empty(stored, dtype))
    array = array if dtype.isnative else array.astype(dtype.newbyteorder("="))
    return array.T if fortran else array


def _inflate(archive: Archive, member: str, start: int, into: np.ndarray) -> np.ndarray:
    view = into.reshape(-1).view(np.uint8).data
    try:
        with archive.opened(member) as file:
            file.read(start)
            while len(view):
                part = file.read(min(len(view), 1 << 20))
                if not part:
                    raise WeightFileError("its numbers end early")
                view[: len(part)] = part
                view = view[len(part) :]
            file.read(1)  # reaching the end verifies the checksum
    except WeightFileError:
        raise
    except DAMAGED as error:
        raise WeightFileError(f"cannot be read ({str(error)[:200]})") from None
    return into

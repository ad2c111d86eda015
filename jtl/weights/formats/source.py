"""A file of numbers, whose ranges are read as arrays on demand.

Reading into fresh memory, rather than mapping the file, keeps one copy in the process: pages of a mapped file count in
addition to the arrays made from them, and a file that is cut short later kills the process that maps it. Only a caller
that needs parts of arrays maps them, one after another (`view`).
"""

import os
import stat
from collections.abc import Sequence
from io import FileIO
from math import prod
from pathlib import Path

import numpy as np

from jtl.weights.formats.errors import WeightFileError, show

ALIGNMENT = 64  # bytes; from this alignment on, JAX on a CPU takes over a NumPy array without a copy
MAX_DIMS = 32
PIECE = 1 << 20  # bytes held at once if numbers change their order: as in the file, and with rows apart
ROWS = 256  # at most, because one cache line of each is held at once
LINE = 64  # bytes of a cache line


def aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An uninitialised C-ordered array of `shape` whose memory starts at a multiple of `ALIGNMENT` bytes."""
    count = prod(shape) * dtype.itemsize
    raw = np.empty(count + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count].view(dtype).reshape(shape)


def check_shape(shape: Sequence[object], itemsize: int, what: str) -> tuple[int, ...]:
    """Returns `shape` as a tuple of ints, if NumPy can hold such an array.

    Raises:
      WeightFileError: an entry is not an integer or is negative, or the array is too big for any memory.
    """
    if len(shape) > MAX_DIMS:
        raise WeightFileError(f"{what} has {len(shape)} dimensions; at most {MAX_DIMS} are read")
    sizes: list[int] = []
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise WeightFileError(f"{what} has a size of {show(size)} in its shape; sizes are integers >= 0")
        sizes.append(size)
    if prod(max(size, 1) for size in sizes) * itemsize >= 1 << 62:
        raise WeightFileError(f"{what} has a shape that no memory holds: {', '.join(map(show, sizes))}")
    return tuple(sizes)


def _spread(rows: np.ndarray) -> np.ndarray:
    """Memory for the same rows, an odd number of cache lines apart.

    Rows whose distance is a multiple of 4 kB, as in many kernels, all map to the same few cache lines. If one number of
    each is read in turn, they evict one another, which takes twice the time.
    """
    width = prod(rows.shape[1:]) * rows.itemsize
    apart = aligned_empty((len(rows), (-(-width // LINE) | 1) * LINE), np.dtype(np.uint8))
    return apart[:, :width].view(rows.dtype).reshape(rows.shape)


class ByteSource:
    """A regular file of a known size.

    Raises:
      FileNotFoundError: the path does not exist.
      WeightFileError: it is a folder, a pipe or a device.
    """

    def __init__(self, path: Path):
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise WeightFileError(f"{path}: is no regular file")
        self.path = path
        self.size = info.st_size

    def bytes(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset` on."""
        buffer = np.empty(self._inside(offset, count), np.uint8)
        self._fill(buffer, offset)
        return buffer.tobytes()

    def array(self, offset: int, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """The little-endian array of `shape` that starts at byte `offset`."""
        self._inside(offset, prod(shape) * dtype.itemsize)
        array = aligned_empty(shape, dtype)
        self._fill(array, offset)
        if dtype == np.bool_:
            # a byte other than 0 and 1 would make a boolean that is neither
            np.not_equal(array.view(np.uint8), 0, out=array)
        return array

    def view(self, offset: int, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """The same as a read-only view of the file: parts that are not accessed are not read."""
        count = self._inside(offset, prod(shape) * dtype.itemsize)
        if not count:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, "r", offset, tuple(shape)).view(np.ndarray)

    def fill(self, offset: int, dtype: np.dtype, into: np.ndarray) -> None:
        """Reads the array that starts at byte `offset` into `into`, which may have any strides and number type.

        It is read piece by piece, so no copy of the whole array in the file's order is ever held.
        """
        self._inside(offset, into.size * dtype.itemsize)
        if into.dtype == dtype and into.flags.c_contiguous:
            self._fill(into, offset)
            return
        rows = into.reshape(1) if into.ndim == 0 else into
        width = prod(rows.shape[1:]) * dtype.itemsize
        count = max(1, min(ROWS, PIECE // 2 // max(width, 1), len(rows)))
        buffer = aligned_empty((count, *rows.shape[1:]), dtype)
        apart = buffer if into.flags.c_contiguous else _spread(buffer)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            for start in range(0, len(rows), count):
                part = buffer[: len(rows) - start]
                self._read(file, part)
                if apart is not buffer:
                    apart[: len(part)] = part
                rows[start : start + count] = apart[: len(part)]

    def _inside(self, offset: int, count: int) -> int:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise WeightFileError(
                f"{self.path}: needs bytes {show(offset)} to {show(offset + count)}, "
                f"but the file ends at {self.size}; it is cut short or damaged"
            )
        return count

    def _fill(self, array: np.ndarray, offset: int) -> None:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            self._read(file, array)

    def _read(self, file: FileIO, array: np.ndarray) -> None:
        view = array.reshape(-1).view(np.uint8).data
        while len(view):
            got = file.readinto(view)
            if not got:
                raise WeightFileError(f"{self.path}: became shorter while it was read")
            view = view[got:]

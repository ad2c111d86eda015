"""Named tensors of a file, each read when it is looked up."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jtl.weights.formats.errors import WeightNameError, show
from jtl.weights.formats.source import ByteSource


class Entry(NamedTuple):
    """One tensor: its shape and dtype, and how to read it.

    Args:
      shape: shape of the array.
      dtype: dtype of the array.
      read: returns it.
      fill: reads it into an array of that shape, with any strides and number type; None if that saves nothing.
      view: returns it as a view of the file, of which only the accessed parts are read; None if there is none.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    fill: Callable[[np.ndarray], None] | None = None
    view: Callable[[], np.ndarray] | None = None


def stored(source: ByteSource, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Entry:
    """The entry of an array that is stored in the file without change, from byte `offset` on."""
    read = partial(source.array, offset, shape, dtype)
    if dtype == np.bool_:  # whose bytes have to be checked
        return Entry(shape, dtype, read)
    return Entry(shape, dtype, read, partial(source.fill, offset, dtype), partial(source.view, offset, shape, dtype))


if TYPE_CHECKING:
    _Arrays = Mapping[str, np.ndarray]
else:  # a run-time type checker that knew the values' type would read one to check it
    _Arrays = Mapping


class Tensors(_Arrays):
    """The tensors of a weight file by name; `tensors[name]` reads that tensor, each time again.

    Nothing is cached, so a caller that takes one tensor after another never holds the file twice.

    Args:
      path: the file (or index) that they are from.
      entries: the tensors.
      metadata: the texts that the file holds in addition.

    Example:
      >>> import pathlib, numpy as np, jtl
      >>> one = jtl.weights.Entry((2,), np.dtype("float32"), lambda: np.ones(2, np.float32))
      >>> tensors = jtl.weights.Tensors(pathlib.Path("weights.npz"), {"body.scale": one})
      >>> tensors["body.scale"].tolist(), list(tensors.under("body."))
      ([1.0, 1.0], ['scale'])
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str] | None = None):
        self.path = path
        self.metadata = dict(metadata or {})
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entry(name).read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def under(self, prefix: str) -> "Tensors":
        """The tensors whose names begin with `prefix`, named without it.

        Raises:
          WeightNameError: if there are none.
        """
        entries = {n.removeprefix(prefix): entry for n, entry in self._entries.items() if n.startswith(prefix)}
        if not entries:
            some = ", ".join(map(show, list(self)[:5]))
            raise WeightNameError(f"none of the {len(self)} tensors ({some}, ...) has prefix={show(prefix)}")
        return Tensors(self.path, entries, self.metadata)

    def __repr__(self) -> str:
        return f"Tensors({str(self.path)!r}, {len(self)} tensors, {self.nbytes} bytes)"

    def view(self, name: str) -> np.ndarray:
        """A tensor as a view of the file, of which only the accessed parts are read; if impossible, as `self[name]`.

        The file must not be cut shorter while the view is in use: the system kills a process that reads beyond its end.
        """
        entry = self.entry(name)
        return entry.read() if entry.view is None else entry.view()

    def entry(self, name: str) -> Entry:
        """Shape and dtype of a tensor, without reading it."""
        if name not in self._entries:
            raise KeyError(f"{self.path} holds no tensor {show(name)}")
        return self._entries[name]

    @property
    def nbytes(self) -> int:
        """The size of all tensors, in bytes."""
        return sum(int(np.prod(e.shape, dtype=object)) * e.dtype.itemsize for e in self._entries.values())

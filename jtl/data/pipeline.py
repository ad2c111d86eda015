"""One data set for all sources: Grain shuffles, slices, pads and batches by the step alone."""

import operator
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jtl import checked
from jtl.data.processes import processes
from jtl.typing import Batch


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): systems and programs spell é as one character or as two."""
    return unicodedata.normalize("NFC", name)


def distinct(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in Unicode's composed form; a label is an index into them.

    Raises:
      TypeError: for one string, whose letters would be the names, or what is no list.
      ValueError: for a name that is there twice: two labels would be one class.
    """
    if isinstance(classes, str):
        raise TypeError(f"classes is the string {classes[:50]!r}; give a list of names")
    if not isinstance(classes, Iterable):
        raise TypeError(f"classes is {classes!r}; give a list of names")
    names = tuple(composed(str(name)) for name in classes)
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"class {twice[0]!r} is there {names.count(twice[0])} times; give each name once")
    return names


def same_labels(known: Any, other: Any, told: tuple[str, str]) -> None:
    """Refuses a data set whose labels mean other classes than those of the training data; see `same_classes`.

    Args:
      known: the data set that is learned from.
      other: the one with the same labels.
      told: what to call both in the message.

    Raises:
      ValueError: naming the first label of two classes.
    """
    same_classes(getattr(known, "classes", None), getattr(other, "classes", None), told)


def same_classes(known: Sequence[str] | None, other: Sequence[str] | None, told: tuple[str, str]) -> None:
    """Refuses labels that mean other classes than those which are known.

    Folders give labels by their sorted names: where one lacks a class, all labels behind it move up. Names of which
    none is in common, as those of numbers and words, may be the same classes, and are let pass; so are none.

    Args:
      known: the names of the classes.
      other: those of the same labels.
      told: what to call both in the message.

    Raises:
      ValueError: naming the first label of two classes.
    """
    ours, theirs = ([composed(name) for name in names or ()] for names in (known, other))
    if not set(ours) & set(theirs):
        return
    for label, name in enumerate(theirs):
        if label >= len(ours) or ours[label] != name:
            means = repr(ours[label]) if label < len(ours) else "no class"
            raise ValueError(
                f"label {label} is {name!r} in {told[1]} and {means} in {told[0]}: read the data with"
                f" classes={ours if len(ours) <= 20 else [*ours[:20], '...']}"
            )


def matched(data: Any, classes: Sequence[str] | None, told: str) -> Any:
    """Data whose labels are those of `classes`, matched by name.

    Args:
      data: a data set; one without names, or without a name in common, as of numbers and words, is taken as it is.
      classes: the names of the network's classes; None where they are not known.
      told: what to call the data in a message.

    Raises:
      ValueError: for a class of the data that the network does not have, where others have the same names.
    """
    theirs = getattr(data, "classes", None)
    if classes is not None and theirs is not None:  # the names in a file of weights are as its author's system has them
        classes, theirs = [composed(name) for name in classes], [composed(name) for name in theirs]
    if classes is None or theirs is None or not set(theirs) & set(classes) or tuple(theirs) == tuple(classes):
        return data
    unknown = [name for name in theirs if name not in classes]
    if unknown:
        raise ValueError(
            f"{told} has the class {unknown[0]!r}, which the network lacks: its classes are {list(classes)}"
        )
    return Relabelled(data, tuple(classes), np.array([list(classes).index(name) for name in theirs], np.int32))


@dataclass(frozen=True)
class Relabelled:
    """A data set whose labels are given in another order of the classes.

    Integer labels change their values. Labels with a column for each class, which are soft labels [..., classes] and
    several labels a row [rows, classes] of 0 and 1, change their columns. A class that the data lack has 0 in soft
    labels and -1, not known, among several. Integers [rows, classes] are several labels a row where the first batch
    has no other number than 0 and 1, or one to ignore below them.

    Args:
      data: a data set whose batches have `y`.
      classes: the names in the new order.
      places: the new label of each old one.

    Raises:
      ValueError: when a batch is read whose labels are of neither kind, as those of several views, or of another kind
        than those of the first.
    """

    data: Any
    classes: tuple[str, ...]
    places: np.ndarray

    @property
    def parts(self) -> tuple[Any, ...]:
        """The data set that it is made of."""
        return (self.data,)

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.data)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step; labels outside of the old classes, as one to ignore, stay."""
        batch = dict(self.data[step])
        y = np.asarray(batch.get("y"))
        whole, columns = np.issubdtype(y.dtype, np.integer), y.ndim > 1 and y.shape[-1] == len(self.places)
        known = (y >= 0) & (y < len(self.places)) if whole else np.zeros(y.shape, bool)
        several = whole and columns and y.ndim == 2 and self._several
        if several and not self._binary(y):
            raise ValueError(
                f"batch {step} has the label {y.max()}, and the first batch 0 and 1 in {len(self.places)} columns, as"
                f" several labels a row have them: read the data with classes={list(self.classes)}"
            )
        if several or (columns and np.issubdtype(y.dtype, np.floating)):
            moved = np.full((*y.shape[:-1], len(self.classes)), -1 if several else 0, y.dtype)
            moved[..., self.places] = y
            return {**batch, "y": moved}
        if not whole:
            ours = list(self.classes)
            raise ValueError(
                f"classes {list(self.data.classes)} are not in the network's order {ours}, and only integer labels and"
                f" soft ones can be matched by name; these are {y.dtype}{y.shape}: read the data with classes={ours}"
            )
        return {**batch, "y": np.where(known, self.places[np.where(known, y, 0)], y).astype(np.int32)}

    @cached_property
    def _several(self) -> bool:
        return self._binary(np.asarray(self.data[0].get("y")))

    def _binary(self, y: np.ndarray) -> bool:
        found = y.ndim == 2 and y.shape[-1] == len(self.places) and np.issubdtype(y.dtype, np.integer)
        return bool(found and (y <= 1).all())


@runtime_checkable
class Source(Protocol):
    """Examples by their index.

    Example:
      >>> import numpy as np, jtl
      >>> class Squares:
      ...     size, classes = 4, None
      ...     def read(self, index, draws):
      ...         return {"x": np.square(index)[:, None].astype(np.float32)}
      >>> jtl.data.Dataset(Squares(), batch_size=4, shuffle=False)[0]["x"].ravel().tolist()
      [0.0, 1.0, 4.0, 9.0]
    """

    @property
    def size(self) -> int:
        """The number of examples."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the labels, where they have any."""
        ...

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """Reads rows.

        Args:
          index: the examples' indices, int [rows].
          draws: one tuple of integers a row that seeds what is random about it (`np.random.default_rng(draw)`).

        Returns:
          a dict of arrays with leading axis rows, "x" and where there are labels "y".
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """Batches of a source as a function of the step.

    Step s belongs to epoch s // len(dataset). With shuffle, the epoch's order is Grain's permutation under a seed
    made of (seed, epoch). Of each global batch, process k of P has rows [k B/P, (k+1) B/P), so that the processes'
    rows together, in order, are the batch that one process would have read. The last partial batch is filled up with
    real examples of the same epoch, whose `mask` is False.

    Args:
      source: where examples come from.
      batch_size: rows of the global batch; the processes share it.
      seed: of the order, and of the host's random crops.
      shuffle: False for evaluation.
      drop_last: leave the last partial batch out.
      process_index: None asks jax when the first batch is read.
      process_count: likewise.

    Raises:
      ValueError: for a batch size that is no integer of at least 1, that the processes cannot share, or that leaves no
        step.

    Example:
      >>> import numpy as np, jtl
      >>> source = jtl.data.arrays(np.arange(5.0)[:, None], batch_size=2).source
      >>> data = jtl.data.Dataset(source, batch_size=3, shuffle=False)
      >>> len(data), data[1]["x"].ravel().tolist(), data[1]["mask"].tolist()
      (2, [3.0, 4.0, 0.0], [True, True, False])
    """

    source: Source
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    process_index: int | None = None
    process_count: int | None = None

    def __post_init__(self) -> None:
        checked.whole(1, batch_size=self.batch_size)
        checked.whole(0, seed=self.seed)
        if self.source.size < 1:
            raise ValueError("the data set has no examples")
        if len(self) == 0:
            raise ValueError(
                f"drop_last leaves no batch: {self.size} examples are fewer than batch_size {self.batch_size}"
            )
        if self.process_index is not None or self.process_count is not None:
            self._share()  # wrong ones are told at once

    @property
    def size(self) -> int:
        """How many examples there are."""
        return self.source.size

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes' names in the order of their labels, or None."""
        return self.source.classes

    def reseeded(self, name: str) -> "Dataset":
        """The same examples in an order of its own, by a seed made of this one and a name; as it is without shuffle."""
        return replace(self, seed=zlib.crc32(f"{name}/{self.seed}".encode())) if self.shuffle else self

    def __len__(self) -> int:
        """Steps per epoch."""
        if self.drop_last:
            return self.size // self.batch_size
        return -(-self.size // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step: numpy arrays of this process's rows, with `mask` bool [rows]."""
        if step < 0:
            raise IndexError(f"step is {step}; steps count from 0")
        # Read here and not by Grain, which adds a note on its own filters to every ValueError of a file.
        rows = self._rows[operator.index(step)]
        examples = np.array([row[0] for row in rows])
        draws = [(self.seed, epoch, position) for _, epoch, position, _ in rows]
        return {**self.source.read(examples, draws), "mask": np.array([row[3] for row in rows])}

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch, in order."""
        return (self[step] for step in range(len(self)))

    def _share(self) -> tuple[int, int]:
        """The index of this process, and the number of its rows in a batch."""
        index, count = processes(self.process_index, self.process_count)
        if self.batch_size % count:
            raise ValueError(f"batch_size {self.batch_size} does not divide by {count} processes")
        return index, self.batch_size // count

    @cached_property
    def _rows(self) -> Any:
        """Of each step (example, epoch, place in the epoch, whether it counts) of this process's rows."""
        from grain import MapDataset

        index, local = self._share()
        # Grain adds the epoch to the seed; hashing first keeps seed 1's first epoch from being seed 0's second
        seed = zlib.crc32(f"order/{self.seed}".encode())
        order: Any = MapDataset.range(self.size)
        if self.shuffle:
            order = order.shuffle(seed=seed)

        def place(row: int, _: Any) -> tuple[int, int, int, bool]:
            step, offset = divmod(row, local)
            epoch, step = divmod(step, len(self))
            position = step * self.batch_size + index * local + offset
            return int(order[epoch * self.size + position % self.size]), epoch, position, position < self.size

        return MapDataset.range(len(self) * local).map_with_index(place).batch(local, batch_fn=list)

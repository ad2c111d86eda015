"""One data set for all sources: it shuffles (by Grain), slices, pads and batches as a function of the step."""

import operator
import unicodedata
import warnings
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
      TypeError: for one string, whose letters would be the names, or a value that is not a list.
      ValueError: for a name that is listed twice, because two labels would be one class.
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
      known: the training data.
      other: a data set that should have the same labels.
      told: the names of both in the message.

    Raises:
      ValueError: naming the first label that means two classes.
    """
    same_classes(getattr(known, "classes", None), getattr(other, "classes", None), told)


def same_classes(known: Sequence[str] | None, other: Sequence[str] | None, told: tuple[str, str]) -> None:
    """Refuses labels that mean other classes than the known ones.

    Labels of folders follow their sorted names: if a folder is missing, all later labels move up. Lists without a
    common name, such as numbers and words, may mean the same classes and are accepted; so are missing names.

    Args:
      known: the names of the classes.
      other: the names that should be the same.
      told: the names of both in the message.

    Raises:
      ValueError: naming the first label that means two classes.
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
    """The data with labels in the order of `classes`, matched by name.

    Args:
      data: a data set; without class names, or without a name in common (numbers and words), it is returned as it is.
      classes: the names of the network's classes; None if they are not known.
      told: the name of the data in a message.

    Raises:
      ValueError: for a class of the data that the network does not have, if they have others in common.
    """
    theirs = getattr(data, "classes", None)
    if classes is not None and theirs is not None:  # a file of weights has the names as its author's system spells them
        classes, theirs = [composed(name) for name in classes], [composed(name) for name in theirs]
    if classes is None or theirs is None or not set(theirs) & set(classes) or tuple(theirs) == tuple(classes):
        return data
    unknown = [name for name in theirs if name not in classes]
    if unknown:
        raise ValueError(
            f"{told} has the class {unknown[0]!r}, which the network lacks: its classes are {list(classes)}"
        )
    return Relabelled(data, tuple(classes), np.array([list(classes).index(name) for name in theirs], np.int32))


def counted_classes(data: Any, outputs: int | None) -> None:
    """Refuses more classes than the network has outputs, and warns of fewer.

    Labels of folders follow their sorted names. If a network does not know its classes by these names, label i is
    compared with output i, and with a folder missing or added that is another class. Fewer classes may be right: those
    of the training data, for a head with outputs to spare. So are names that are the numbers of their labels.

    Args:
      data: a data set; without class names nothing is checked.
      outputs: the number of outputs that labels are compared with; None if it is not known.

    Raises:
      ValueError: naming both numbers.
    """
    names = getattr(data, "classes", None)
    if outputs is None or names is None or len(names) == outputs:
        return
    some = list(names) if len(names) <= 20 else [*names[:20], "..."]
    told = f"the data have {len(names)} classes, {some}, and the network has {outputs} outputs"
    right = f"read the data with classes=, the names of all {outputs} outputs in their order"
    if len(names) > outputs:
        raise ValueError(f"{told}: labels from {outputs} on, such as that of {names[outputs]!r}, have none; {right}")
    if any(name != str(label) for label, name in enumerate(names)):
        warnings.warn(
            f"{told}: label 0, {names[0]!r}, is compared with output 0, and so on; if that is another class, {right}",
            stacklevel=2,
        )


@dataclass(frozen=True)
class Relabelled:
    """A data set with its labels in another order of the classes.

    Integer labels change their values. Labels with one column per class, which are soft labels [..., classes] and
    several labels per row, [rows, classes] of 0 and 1, change their columns. For a class that the data lack, soft
    labels get 0, and several labels per row get -1 for unknown. Integers [rows, classes] count as several labels per
    row if the first batch has only 0 and 1, or negative numbers to ignore.

    Args:
      data: a data set whose batches have `y`.
      classes: the names in the new order.
      places: the new label of each old one.

    Raises:
      ValueError: when a batch is read whose labels are of neither kind, such as those of several views, or of another
        kind than those of the first.
    """

    data: Any
    classes: tuple[str, ...]
    places: np.ndarray

    @property
    def parts(self) -> tuple[Any, ...]:
        """The data set of which it is made."""
        return (self.data,)

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.data)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step; labels outside the old classes, such as one to ignore, stay."""
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
        """The names of the labels, or None."""
        ...

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """Reads rows.

        Args:
          index: the examples' indices, int [rows].
          draws: one tuple of integers per row, which seeds its random numbers (`np.random.default_rng(draw)`).

        Returns:
          A dict of arrays with leading axis rows: "x", and "y" if there are labels.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """Batches of a source as a function of the step.

    Step s belongs to epoch s // len(dataset). With shuffle, the epoch's order is Grain's permutation with a seed made
    of (seed, epoch). Of each global batch, process k of P has rows [k B/P, (k+1) B/P), so that the rows of all
    processes, in order, are the batch that one process would have read. The last partial batch is filled up with real
    examples of the same epoch, whose `mask` is False.

    Args:
      source: the source of the examples.
      batch_size: the number of rows of the global batch; the processes share it.
      seed: the seed of the order, and of random transforms on the host.
      shuffle: whether to use another order in each epoch; False for evaluation.
      drop_last: leave out the last partial batch.
      process_index: None asks jax when the first batch is read.
      process_count: likewise.

    Raises:
      ValueError: for a batch size that is not an integer of at least 1, that the processes cannot share, or that leaves
        no step; for a seed that is not an integer of at least 0.

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
            self._share()  # wrong ones are refused at once

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.source.size

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes' names in the order of their labels, or None."""
        return self.source.classes

    @property
    def content(self) -> str | None:
        """A text that tells the examples from others; None if the source has none. See `jtl.data.content`."""
        return getattr(self.source, "content", None)

    def reseeded(self, name: str) -> "Dataset":
        """The same examples in another order, with a seed made of this one and a name; unchanged without shuffle."""
        return replace(self, seed=zlib.crc32(f"{name}/{self.seed}".encode())) if self.shuffle else self

    def __len__(self) -> int:
        """Steps per epoch."""
        if self.drop_last:
            return self.size // self.batch_size
        return -(-self.size // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step: NumPy arrays of this process's rows, with `mask` bool [rows]."""
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
        """For each step, (example, epoch, place in the epoch, whether it counts) for each of this process's rows."""
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

"""Subsets of a data set, and splits drawn with a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jtl.checked import seed_of
from jtl.data.content import of_arrays
from jtl.data.pipeline import Dataset, Source


def subset(data: Any, rows: Any) -> Dataset:
    """The data set of some examples, in the order given.

    Args:
      data: a `Dataset`, such as one from `jtl.data.arrays` or `folder`.
      rows: the indices of the examples, integers in [0, data.size).

    Raises:
      TypeError: for another kind of data.
      ValueError: for rows that are not integers in that range, for no rows, or for balanced data.

    Example:
      >>> import numpy as np, jtl
      >>> data = jtl.data.arrays(np.arange(6.0)[:, None], batch_size=2, shuffle=False)
      >>> jtl.data.subset(data, [5, 0])[0]["x"].tolist()
      [[5.0], [0.0]]
    """
    _is_dataset(data, "subset")
    index = np.asarray(rows)
    if index.ndim != 1 or not index.size or index.dtype.kind not in "iu":
        raise ValueError(f"rows of {index.dtype} and shape {index.shape}: give a list of integers, at least one")
    if index.min() < 0 or index.max() >= data.size:
        raise ValueError(f"rows lie in [{index.min()}, {index.max()}], and there are {data.size} examples")
    return replace(data, source=_Rows(data.source, index))


def split(
    data: Any,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    labels: Any = None,
    groups: Any = None,
) -> dict[str, Dataset]:
    """Splits a data set into named parts, drawn within each class; the remaining examples are "train".

    The rows of a part depend only on the labels, the groups, the shares and the seed, so that two data sets of the same
    files, one with an augmentation and one without, are split alike. The parts other than "train" are not shuffled.
    Copies of an example may end up in two parts unless they are in one group.

    Args:
      data: a `Dataset`, such as one from `jtl.data.arrays` or `folder`.
      shares: the share of each class's examples (or of all groups) for every part, each at least one example or group;
        for example `{"val": 0.15, "test": 0.15}`.
      seed: the seed of the draw.
      labels: integers, one per example; None for those of the data. Without labels, and for the targets of a
        regression, all examples are drawn as one class.
      groups: one value per example, such as its speaker or patient. A group is never split between parts, and groups
        are drawn regardless of their labels.

    Raises:
      TypeError: for another kind of data.
      ValueError: for shares that are not positive or leave nothing to train on, a seed that is not an integer of at
        least 0, labels or groups of another length, too few examples of a class or too few groups for every part, or a
        class that the groups leave out of training; for balanced data, or data whose labels are only known when read.

    Example:
      >>> import numpy as np, jtl
      >>> data = jtl.data.arrays(np.zeros((20, 3)), np.arange(20) % 2, batch_size=4)
      >>> parts = jtl.data.split(data, {"val": 0.2})
      >>> {name: part.size for name, part in parts.items()}
      {'train': 16, 'val': 4}
    """
    _is_dataset(data, "split")
    wanted = dict(shares)
    if not wanted or "train" in wanted or not all(s > 0 for s in wanted.values()) or not sum(wanted.values()) < 1:
        raise ValueError(f"shares={wanted}: positive numbers below 1 together, of other parts than 'train'")
    seed_of(seed)
    draw = np.random.default_rng(seed)
    y = _one_each(_labels(data.source) if labels is None else labels, data.size, "labels")
    if groups is not None:
        marks = _one_each(groups, data.size, "groups")
        found = [np.flatnonzero(marks == value) for value in dict.fromkeys(marks.tolist())]
        _enough(f"there are {len(found)} groups", len(found), wanted)
        taken = dealt(found, wanted, draw)
        absent = sorted(set(y.tolist()) - set(y[taken["train"]].tolist()))
        if absent:
            raise ValueError(
                f"label {absent[0]} is only in groups that were drawn for {' and '.join(wanted)}: give more groups or"
                " another seed"
            )
    else:
        taken = {name: [] for name in ("train", *wanted)}
        for label in np.unique(y):
            here = np.flatnonzero(y == label)
            _enough(f"label {label} has {len(here)} examples", len(here), wanted)
            for name, index in dealt([here[i : i + 1] for i in range(len(here))], wanted, draw).items():
                taken[name] += index
    parts = {name: subset(data, sorted(index)) for name, index in taken.items()}
    return {n: part if n == "train" else replace(part, shuffle=False, drop_last=False) for n, part in parts.items()}


def dealt(groups: Sequence[np.ndarray], shares: Mapping[str, float], draw: np.random.Generator) -> dict[str, list[int]]:
    """The examples of each part, drawn in whole groups, at least one group per part; the others are "train"."""
    taken: dict[str, list[int]] = {}
    left = [groups[i] for i in draw.permutation(len(groups))]
    for part, share in shares.items():
        count = max(1, round(share * len(groups)))
        taken[part], left = [i for group in left[:count] for i in group.tolist()], left[count:]
    return {"train": [i for group in left for i in group.tolist()], **taken}


@dataclass(frozen=True)
class _Rows:
    source: Source
    index: np.ndarray

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes

    @property
    def labels(self) -> np.ndarray:
        return _labels(self.source)[self.index]

    @property
    def content(self) -> str | None:
        own = getattr(self.source, "content", None)
        return None if own is None else f"{of_arrays(self.index)} of {own}"

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        return self.source.read(self.index[index], draws)


def _labels(source: Any) -> np.ndarray:
    """One integer per example; zeros if the source has no such labels, so that all are drawn as one class."""
    found = getattr(source, "labels", None)
    found = getattr(source, "y", None) if found is None else found
    if isinstance(found, str):
        raise ValueError(f"the labels {found!r} of this data are seen when they are read: give labels=, one an example")
    one_each = isinstance(found, np.ndarray) and found.ndim == 1 and found.dtype.kind in "iu"
    return np.asarray(found) if one_each else np.zeros(source.size, np.int32)


def _one_each(values: Any, size: int, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (size,):
        raise ValueError(f"{name} of shape {array.shape}: give one for each of {size} examples")
    return array


def _enough(told: str, count: int, wanted: Mapping[str, float]) -> None:
    if count <= len(wanted):
        raise ValueError(f"{told}: give at least {1 + len(wanted)}, one for each of train and {', '.join(wanted)}")


def _is_dataset(data: Any, who: str) -> None:
    if isinstance(data, Dataset) and getattr(data.source, "drawn", False):
        raise ValueError(f"{who} of balanced data, which draws rows of its own: {who} first, then balance the part")
    if not isinstance(data, Dataset):
        raise TypeError(
            f"{who} takes data of jtl.data.arrays, files, folder or tfds, and this is a {type(data).__name__}"
        )

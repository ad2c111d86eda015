"""Batches of several data sets at each step, for multi-task training."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jtl.data.pipeline import same_labels
from jtl.typing import Batch


def several(labels: Literal["same", "own"] = "same", /, **sets: Any) -> "Several":
    """Makes a data set with one batch of every given set at each step, by name, for `jtl.tasks.together`.

    Each set goes through its own epochs, so sizes and batch sizes may differ. An epoch of the whole is that of the
    longest set. A shuffled set, such as one from `arrays`, `folder` or `by_length`, is reshuffled with a seed derived
    from its own and its name, so that sets of equal seeds and sizes do not always pair the same rows.

    Args:
      labels: "same" if a label must mean one class in all sets that name their classes, which is checked; sets without
        names, or without a name in common, are taken to belong to different tasks. "own" if each set has its own head,
        so that classes of the same name may have different labels.
      **sets: data sets by name.

    Returns:
      A data set of {name: batch}.

    Raises:
      ValueError: for no data set; with "same", for the first label that means two classes, as when a folder lacks one.

    Example:
      >>> import numpy as np, jtl
      >>> a = jtl.data.arrays(np.zeros((4, 2)), np.arange(4), batch_size=2)
      >>> b = jtl.data.arrays(np.zeros((6, 3)), np.ones(6), batch_size=3)
      >>> data = jtl.data.several(count=a, size=b)
      >>> len(data), data[0]["size"]["x"].shape
      (2, (3, 3))
    """
    if not sets:
        raise ValueError("several() needs at least one data set, as several(tags=..., digits=...)")
    if labels not in ("same", "own"):
        raise ValueError(f"labels={labels!r}: give 'same' or 'own'; data sets are given by name")
    if labels == "same":
        _check_labels(sets)
    return Several({name: one.reseeded(name) if hasattr(one, "reseeded") else one for name, one in sets.items()})


@dataclass(frozen=True)
class Several:
    """See `several`."""

    sets: Mapping[str, Any]

    @property
    def parts(self) -> tuple[Any, ...]:
        """The data sets of which it is made."""
        return tuple(self.sets.values())

    def __len__(self) -> int:
        """Steps per epoch of the longest set."""
        return max(map(len, self.sets.values()))

    def __getitem__(self, step: int) -> Batch:
        """The batches of a step."""
        return {name: one[step] for name, one in self.sets.items()}

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch, in order."""
        return (self[step] for step in range(len(self)))


def _check_labels(sets: Mapping[str, Any]) -> None:
    """Refuses two sets in which a label means two classes; the set with fewer classes may lack the last ones."""
    named = [(name, one) for name, one in sets.items() if getattr(one, "classes", None) is not None]
    for pair in itertools.combinations(named, 2):
        (less, fewer), (more, known) = sorted(pair, key=lambda one: len(one[1].classes))
        try:
            same_labels(known, fewer, (repr(more), repr(less)))
        except ValueError as error:
            raise ValueError(f"{error}; or give several('own', ...), where each set has a head of its own") from error

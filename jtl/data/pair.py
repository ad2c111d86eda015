"""Pairs of batches from two domains, for adaptation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jtl.data.pipeline import same_labels
from jtl.typing import Batch


def pair(source: Any, target: Any, *, target_labels: bool = False) -> "Pair":
    """Makes a data set of pairs of a source and a target batch.

    Each domain cycles through its own epochs, so sizes and batch sizes may differ. An epoch of the pair, `len(pair)`,
    is that of the longer domain. A shuffled target, such as one from `arrays`, `folder` or `by_length`, is reshuffled
    with a seed derived from its own, so that equal seeds do not pair the same source and target rows in every epoch.

    Args:
      source: a data set of {"x", "y", "mask"}.
      target: a data set; its labels are removed.
      target_labels: whether to keep the target's labels (for an oracle, or semi-supervised learning).

    Returns:
      A data set of {"source": batch, "target": batch}; its size is the longer domain's, its classes are the source's.

    Raises:
      ValueError: with target_labels, for a label that means another class in the target.

    Example:
      >>> import numpy as np, jtl
      >>> source = jtl.data.arrays(np.zeros((6, 2)), np.zeros(6, int), batch_size=3)
      >>> target = jtl.data.arrays(np.zeros((4, 2)), batch_size=2)
      >>> {domain: sorted(batch) for domain, batch in jtl.data.pair(source, target)[0].items()}
      {'source': ['mask', 'x', 'y'], 'target': ['mask', 'x']}
    """
    if target_labels:
        same_labels(source, target, ("the source", "the target"))
    return Pair(source, target.reseeded("target") if hasattr(target, "reseeded") else target, target_labels)


@dataclass(frozen=True)
class Pair:
    """See `pair`."""

    source: Any
    target: Any
    target_labels: bool

    @property
    def parts(self) -> tuple[Any, ...]:
        """The data sets of which it is made."""
        return self.source, self.target

    @property
    def size(self) -> int:
        """The number of examples of the longer domain."""
        return (self.source if len(self.source) >= len(self.target) else self.target).size

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The source's classes."""
        return self.source.classes

    def __len__(self) -> int:
        """Steps per epoch of the longer domain."""
        return max(len(self.source), len(self.target))

    def __getitem__(self, step: int) -> Batch:
        """The batches of both domains at a step."""
        target = self.target[step]
        if not self.target_labels:
            target = {name: value for name, value in target.items() if name != "y"}
        return {"source": self.source[step], "target": target}

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch, in order."""
        return (self[step] for step in range(len(self)))

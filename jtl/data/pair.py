"""Two domains side by side for adaptation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jtl.data.pipeline import same_labels
from jtl.typing import Batch


def pair(source: Any, target: Any, *, target_labels: bool = False) -> "Pair":
    """Pairs of a source and a target batch.

    Each domain cycles through its own epochs, so sizes and batch sizes may differ. An epoch of the pair, `len(pair)`,
    is that of the longer domain. A target that is shuffled, as of `arrays`, `folder` or `by_length`, is reshuffled
    with a seed derived from its own, so that equal seeds do not pair the same source and target rows in every epoch.

    Args:
      source: a data set of {"x", "y", "mask"}.
      target: a data set; its labels are taken out.
      target_labels: keep the target's labels (for an oracle, or semi-supervised work).

    Returns:
      a data set of {"source": batch, "target": batch}; size is the longer domain's, classes are the source's.

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
        """The data sets that it is made of."""
        return self.source, self.target

    @property
    def size(self) -> int:
        """Examples of the longer domain."""
        return (self.source if len(self.source) >= len(self.target) else self.target).size

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The source's classes."""
        return self.source.classes

    def __len__(self) -> int:
        """Steps per epoch of the longer domain."""
        return max(len(self.source), len(self.target))

    def __getitem__(self, step: int) -> Batch:
        """Both domains' batches of a step."""
        target = self.target[step]
        if not self.target_labels:
            target = {name: value for name, value in target.items() if name != "y"}
        return {"source": self.source[step], "target": target}

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch, in order."""
        return (self[step] for step in range(len(self)))

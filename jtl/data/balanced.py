"""Class-balanced sampling: each row's class is uniform, and its example uniform within the class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jtl.checked import within
from jtl.data.content import of_arrays
from jtl.data.pipeline import Dataset, Source


def balanced(data: Dataset, labels: Any, *, power: float = 0.0) -> Dataset:
    """The data set in which a row has class c with probability `n_c^q / Σ n^q`, drawn with replacement.

    q = 0 is class-balanced sampling, 1/2 square-root sampling, 1 the frequencies of the data. A row is a function of
    the seed, the epoch and its place, so a resumed run and several processes draw the same. An epoch has as many rows
    as before. Examples of rare classes are read repeatedly, so use augmentation on the host or on the device.

    Args:
      data: a shuffled `Dataset`, such as one from `jtl.data.arrays`.
      labels: integer labels of all its examples, in their order.
      power: q in [0, 1].

    Raises:
      TypeError: for data whose batches choose their own rows, such as those of `by_length`.
      ValueError: for labels that are not one integer per example, a power out of range, or a data set without shuffle,
        because its order is intended.

    Example:
      >>> import numpy as np, jtl
      >>> y = np.array([0] * 98 + [1] * 2)
      >>> data = jtl.data.balanced(jtl.data.arrays(np.zeros((100, 3)), y, batch_size=50), y)
      >>> bool(20 < sum(int(batch["y"].sum()) for batch in data) < 80)
      True

    Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, 2019, arXiv 1910.09217.
    """
    if not isinstance(data, Dataset):
        raise TypeError(f"balanced draws the rows of a Dataset, as of jtl.data.arrays; this is a {type(data).__name__}")
    y = np.asarray(labels)
    if y.dtype.kind not in "iu" or y.shape != (data.size,):
        raise ValueError(f"labels of {y.dtype} and shape {y.shape}: give one integer for each of {data.size} examples")
    within("[0, 1]", power=power)
    if not data.shuffle:
        raise ValueError("balanced draws at random, and this data set has shuffle=False, as for evaluation")
    order = np.argsort(y, kind="stable")
    counts = np.unique(y, return_counts=True)[1]
    return replace(data, source=_Balanced(data.source, order, counts, power))


@dataclass(frozen=True)
class _Balanced:
    source: Source
    order: np.ndarray
    counts: np.ndarray
    power: float
    drawn = True  # the rows read are not those that are asked for

    @property
    def size(self) -> int:
        return self.source.size

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes

    @property
    def content(self) -> str | None:
        own = getattr(self.source, "content", None)
        return None if own is None else f"{of_arrays(self.order)} of {own}"

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        del index  # the draw is a function of the place alone
        first = np.cumsum(self.counts) - self.counts
        ends = np.cumsum(self.counts**self.power)
        chosen = []
        for draw in draws:
            of_class, of_example = np.random.default_rng((*draw, 1)).random(2)  # 1: apart from the crops' draws
            c = min(int(np.searchsorted(ends, of_class * ends[-1], side="right")), len(ends) - 1)
            chosen.append(first[c] + min(int(of_example * self.counts[c]), self.counts[c] - 1))
        return self.source.read(self.order[np.asarray(chosen, int)], draws)

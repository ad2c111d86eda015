"""Batches of tokenized texts of similar length: few shapes, and little padding."""

import operator
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import jax
import numpy as np

from jtl import checked
from jtl.data.arrays import arrays
from jtl.data.pipeline import Dataset
from jtl.typing import Batch

SHORTEST = 16
"""The number of tokens of the shortest bucket; each following bucket is twice as long."""


def by_length(
    x: Mapping[str, Any],
    y: Any = None,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    classes: int | Sequence[str] | None = None,
    ignore: int | None = None,
    shortest: int = SHORTEST,
    process_index: int | None = None,
    process_count: int | None = None,
) -> "ByLength":
    """Makes a data set of tokenized texts whose batches are cut to the bucket of their longest text.

    Buckets have `shortest`, twice that, four times, ... tokens, up to the length of the rows. In each epoch, the texts
    are drawn in another order and batched bucket by bucket; texts of a bucket that do not fill a batch go into the next
    longer bucket. So an epoch has `ceil(examples / batch_size)` steps, each text once, and at most one partial batch,
    as with `jtl.data.arrays`. The batches of all buckets are mixed. There are as many batch shapes as buckets;
    `jtl.fit` compiles the step for each at its first batch.

    Args:
      x: tokenized texts, such as those from `jtl.preprocess.text.tokenizer`: `mask` [texts, length], true where there
        is a token, and other arrays; arrays [texts, length, ...] are cut.
      y: labels, as in `jtl.data.arrays`. Integers [texts, length, ...] that are `ignore` at padding are labels of
        tokens, such as tags, and are cut too; so are booleans that are False there. Floats are labels of texts.
      batch_size: the number of rows of the global batch.
      seed: the seed of the order.
      shuffle: whether to use another order in each epoch; False for evaluation, from short to long.
      classes: the number of classes or their names.
      ignore: an additional integer label, for elements that do not count.
      shortest: the number of tokens of the shortest bucket.
      process_index: see `Dataset`.
      process_count: see `Dataset`.

    Raises:
      ValueError: without a mask [texts, length], for a bucket below 1, labels as wide as the texts that may belong to
        tokens or to texts, places of tokens (`start`, `end`) with padding on the left, and as in `arrays`.

    Example:
      >>> import numpy as np, jtl
      >>> mask = np.arange(64) < np.array([[5], [60], [9], [3]])
      >>> rows = jtl.data.by_length({"ids": mask.astype(int), "mask": mask}, [0, 1, 1, 0], batch_size=2)
      >>> sorted(rows[step]["x"]["ids"].shape for step in range(len(rows)))
      [(2, 16), (2, 64)]
    """
    checked.whole(1, shortest=shortest)
    mask = np.asarray(x["mask"]) if "mask" in x else None
    if mask is None or mask.ndim != 2:
        told = f"x has {sorted(x)}" if mask is None else f"x['mask'] has shape {mask.shape}"
        raise ValueError(f"{told}: give a mask [texts, length], true where there is a token")
    whole = arrays(x, y, batch_size=batch_size, seed=seed, shuffle=shuffle, classes=classes, ignore=ignore)
    rows = replace(whole, process_index=process_index, process_count=process_count)
    extents, left = extent(mask)
    buckets = np.array([bucket(int(n), mask.shape[1], shortest) for n in extents], np.int32)
    return ByLength(rows, buckets, left, mask.shape[1], _of_tokens(y, extents, left, mask.shape[1], ignore))


@dataclass(frozen=True)
class ByLength:
    """Batches of texts of similar length, as a function of the step; made by `by_length`.

    Args:
      whole: the uncut rows, and how they are batched.
      buckets: the length that each text is cut to, [texts].
      left: whether padding comes before the text.
      longest: the length of the uncut rows.
      of_tokens: for each array of labels, whether they belong to tokens and are cut; a tree like the labels.
    """

    whole: Dataset
    buckets: np.ndarray
    left: bool
    longest: int
    of_tokens: Any = False

    @property
    def parts(self) -> tuple[Any, ...]:
        """The data set of which it is made."""
        return (self.whole,)

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.whole.size

    @property
    def batch_size(self) -> int:
        """The number of rows of the global batch."""
        return self.whole.batch_size

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes' names in the order of their labels, or None."""
        return self.whole.classes

    @property
    def order(self) -> np.ndarray:
        """The index of the text at each place of an epoch without shuffle, int [texts].

        `outputs[np.argsort(rows.order)]` puts outputs that were collected from `rows` in the order of the texts.

        Raises:
          ValueError: for shuffled data, because each epoch has another order.
        """
        if self.whole.shuffle:
            raise ValueError("the data are shuffled: each epoch has another order; give by_length shuffle=False")
        return np.concatenate([rows[:real] for rows, _, real in self._epochs(0)])

    def reseeded(self, name: str) -> "ByLength":
        """Like `Dataset.reseeded`."""
        return replace(self, whole=self.whole.reseeded(name))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that a batch may have; they tell `jtl.fit` that shapes differ on purpose."""
        return tuple(sorted(set(self.buckets.tolist())))

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.whole)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch, in order."""
        return (self[step] for step in range(len(self)))

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step: NumPy arrays of this process's rows, with `mask` bool [rows]."""
        if step < 0:
            raise IndexError(f"step is {step}; steps count from 0")
        epoch, place = divmod(operator.index(step), len(self))
        index, length, real = self._epochs(epoch)[place]
        process, local = self.whole._share()
        mine = slice(process * local, (process + 1) * local)
        first = place * self.batch_size + mine.start
        draws = [(self.whole.seed, epoch, first + row) for row in range(local)]
        found = self.whole.source.read(index[mine], draws)
        kept = slice(self.longest - length, None) if self.left else slice(0, length)
        x = {name: cut(value, self.longest, kept) for name, value in found["x"].items()}
        batch = {**found, "x": x, "mask": (np.arange(self.batch_size) < real)[mine]}
        if "y" in found:
            batch["y"] = jax.tree.map(lambda tokens, y: y[:, kept] if tokens else y, self.of_tokens, found["y"])
        return batch

    @cached_property
    def _epochs(self) -> Callable[[int], list[tuple[np.ndarray, int, int]]]:
        return lru_cache(maxsize=4)(self._planned)  # the epochs of batches that are read ahead

    def _planned(self, epoch: int) -> list[tuple[np.ndarray, int, int]]:
        """The batches of an epoch: (examples, length, number of examples that are not filling)."""
        draw = np.random.default_rng((zlib.crc32(b"by_length"), self.whole.seed, epoch))
        order = draw.permutation(self.size) if self.whole.shuffle else np.arange(self.size)
        found, rest, batch = [], order[:0], self.batch_size
        for length in self.lengths:
            here = np.concatenate([rest, order[self.buckets[order] == length]])
            whole = len(here) - len(here) % batch
            found += [(rows, length, batch) for rows in here[:whole].reshape(-1, batch)]
            rest = here[whole:]
        if len(rest):
            found.append((np.resize(rest, batch), int(self.buckets[rest].max()), len(rest)))
        return [found[i] for i in draw.permutation(len(found))] if self.whole.shuffle else found


def _of_tokens(y: Any, extents: np.ndarray, left: bool, longest: int, ignore: int | None) -> Any:
    """For each array of labels, whether they belong to tokens."""
    if left and isinstance(y, Mapping) and (places := sorted({"start", "end"} & y.keys())):
        raise ValueError(
            f"y has {places}, places of tokens, and the texts are padded on the left, where they are cut: pad them on"
            " the right, or read them with jtl.data.arrays"
        )
    place = np.arange(longest)[None]
    padding = place < longest - extents[:, None] if left else place >= extents[:, None]

    def one(name: str, value: Any) -> bool:
        value = np.asarray(value)
        if value.dtype.kind == "f" or value.shape[1:2] != (longest,):
            return False
        blank = ignore if value.dtype != bool else False
        if not (value[padding] == blank).all():
            raise ValueError(
                f"{name} of shape {value.shape} and {value.dtype} is as wide as the texts: labels of tokens are"
                f" {'False' if value.dtype == bool else f'{ignore=}'} at padding; labels of texts must be floats"
            )
        return True

    if isinstance(y, Mapping):
        return {name: one(f"y[{name!r}]", value) for name, value in y.items()}
    return False if y is None else one("y", y)


def bucket(count: int, longest: int, shortest: int = SHORTEST) -> int:
    """The first of `shortest`, twice that, four times ... that has room for `count` tokens; at most `longest`."""
    length = shortest
    while length < count:
        length *= 2
    return min(length, longest)


def extent(mask: np.ndarray) -> tuple[np.ndarray, bool]:
    """How far each row of a mask [rows, length] reaches, and whether padding comes before the text, not after it."""
    mask = np.asarray(mask, bool)
    left = bool((~mask[:, 0] & mask[:, -1]).any())
    first = (mask if left else mask[:, ::-1]).argmax(1)
    return np.where(mask.any(1), mask.shape[1] - first, 0), left


def cut(value: np.ndarray, longest: int, kept: slice) -> np.ndarray:
    """The kept tokens of [rows, longest, ...]; an array of another shape as it is."""
    return value[:, kept] if value.ndim > 1 and value.shape[1] == longest else value

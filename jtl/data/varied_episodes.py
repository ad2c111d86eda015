"""Episodes with masks: for classes of unequal size, varying ways and shots, and draws within groups of classes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Key as PRNGKey

from jtl import checked
from jtl.data.arrays import numbers
from jtl.data.augment import Augment
from jtl.data.drawn import Drawn
from jtl.typing import Batch, Key

Range = int | tuple[int, int]


class Bank(NamedTuple):
    """Examples of classes of any size, to be drawn from on the device; made by `bank`.

    Args:
      x: examples, class by class, [examples, ...], in their own type (uint8 images stay uint8); or a dict of such
        arrays.
      first: the index of the first example of each class, [classes].
      count: the number of examples of each class, [classes].
      group: the group of each class, [classes].
    """

    x: Any
    first: Any
    count: Any
    group: Any


def bank(x: Any, y: Any, *, groups: Sequence[int] | np.ndarray | None = None) -> Bank:
    """Makes a `Bank` of examples with labels; labels without examples, such as those of another split, are left out.

    Args:
      x: [examples, ...], or a dict of such arrays, such as the ids and masks of texts.
      y: integer labels [examples], 0 or more.
      groups: the group of each label, [labels], such as the alphabet of a character; None for one group of all.

    Raises:
      ValueError: for no examples, lengths that differ, negative labels, or groups that are not one per label.
      TypeError: for examples that are not arrays of numbers, or labels that are not integers.

    Example:
      >>> import numpy as np, jtl
      >>> found = jtl.data.bank(np.arange(5), np.array([1, 0, 1, 1, 3]))
      >>> found.x.tolist(), found.count.tolist()
      ([1, 0, 2, 3, 4], [1, 3, 1])
    """
    named = x if isinstance(x, Mapping) else {"": x}
    if not named:
        raise ValueError("x is an empty dict: give the arrays of the examples, as ids and mask")
    arrays, y = {name: numbers(f"x[{name!r}]" if name else "x", a) for name, a in named.items()}, np.asarray(y)
    if not np.issubdtype(y.dtype, np.integer):
        raise TypeError(f"y has dtype {y.dtype}; labels are integers")
    for name, a in arrays.items():
        if y.shape != (len(a),) or not len(a):
            what = f"x[{name!r}]" if name else "x"
            raise ValueError(
                f"{what} has {len(a)} examples and y the shape {y.shape}; give one label for each, of at least one"
            )
    if y.min() < 0:
        raise ValueError(f"y[{int(y.argmin())}] is {y.min()}; labels must be 0 or more")
    labels, count = np.unique(y, return_counts=True)
    group = np.zeros(len(labels), np.int32)
    if groups is not None:
        if np.ndim(groups) != 1 or len(groups) <= labels[-1]:
            raise ValueError(
                f"groups has the shape {np.shape(groups)}; give one for each of the labels 0 to {labels[-1]}"
            )
        group = np.unique(np.asarray(groups)[labels], return_inverse=True)[1].astype(np.int32)
    count = count.astype(np.int32)
    order = np.argsort(y, kind="stable")
    held = {name: a[order] for name, a in arrays.items()}
    whole = held if isinstance(x, Mapping) else held[""]
    return Bank(whole, np.cumsum(count, dtype=np.int32) - count, count, group)


def bank_of(dataset: Any, *, groups: Sequence[int] | np.ndarray | None = None) -> Bank:
    """Reads all examples of a data set, such as a folder of images or a table of texts, once into a `Bank`.

    Args:
      dataset: `len(dataset)` batches of {"x", "y", "mask"}, such as those from `jtl.data.arrays`, `folder` or `tfds`; x
        is an array or a dict of arrays. For data of `by_length` the uncut rows are read.
      groups: as in `bank`.

    Raises:
      TypeError: for a data set of single examples in place of batches, as in PyTorch.
      ValueError: if the data set leaves examples out, as with `drop_last`, or belongs to one of several processes.

    Example:
      >>> import numpy as np, jtl
      >>> data = jtl.data.arrays(np.ones((5, 2), np.uint8), np.array([0, 0, 1, 1, 1]), batch_size=2)
      >>> jtl.data.bank_of(data).count.tolist()
      [2, 3]
    """
    dataset = getattr(dataset, "whole", dataset)
    parts = []
    for step in range(len(dataset)):
        batch = dataset[step]
        if not (isinstance(batch, Mapping) and {"x", "y", "mask"} <= batch.keys()):
            what = f"a dict of {sorted(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise TypeError(
                f"dataset[{step}] is {what}, and bank_of reads batches {{'x', 'y', 'mask'}}: give"
                " jtl.data.Dataset(source, batch_size=...), or the arrays of all examples to jtl.data.bank(x, y)"
            )
        kept = np.asarray(batch["mask"]) > 0
        parts.append([jax.tree.map(lambda a, kept=kept: np.asarray(a)[kept], batch[name]) for name in ("x", "y")])
    x, y = (jax.tree.map(lambda *rows: np.concatenate(rows), *values) for values in zip(*parts, strict=True))
    if len(y) != dataset.size:
        raise ValueError(
            f"{len(y)} of the data set's {dataset.size} examples are in its batches: read it by one process, without"
            " drop_last"
        )
    return bank(x, y, groups=groups)


def sample_varied(
    keys: PRNGKey[Array, " tasks"],
    source: Bank,
    *,
    way: Range,
    shot: Range,
    query: int,
    largest: int,
    balanced: bool = True,
    within_groups: bool = False,
    augment: Augment | None = None,
) -> Batch:
    """Draws episodes, with one key each; pure, to be jitted. `varied_episodes` also checks that the source suffices.

    Args:
      keys: one per task, [tasks].
      source: the result of `bank`.
      way: the number of classes of an episode, or the least and the most, drawn uniformly.
      shot: the number of labelled examples of a class, likewise.
      query: the number of examples of each class for evaluation.
      largest: the number of examples of the largest class.
      balanced: whether all classes of an episode have the same number of shots; else each class draws its own.
      within_groups: whether all classes of an episode are from one group, drawn uniformly.
      augment: as in `sample`; it also sees rows that do not count.

    Returns:
      {"support": {"x": [tasks, ways * shots, ...], "y", "mask"}, "query": likewise}, with room for the most ways and
      shots; class by class. Absent rows have mask False and x 0, in every array of a dict.

    Example:
      >>> import jax, numpy as np, jtl
      >>> bank = jtl.data.bank(np.zeros((9, 2), np.float32), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]))
      >>> keys = jax.random.split(jax.random.key(0), 4)
      >>> tasks = jtl.data.sample_varied(keys, bank, way=(2, 3), shot=1, query=2, largest=3)
      >>> tasks["support"]["mask"].shape, tasks["query"]["x"].shape
      ((4, 3), (4, 6, 2))
    """
    (least, ways), (few, shots) = _range("way", way), _range("shot", shot)
    checked.whole(1, query=query, largest=largest)
    source = jax.tree.map(jnp.asarray, source)  # arrays of the host cannot be indexed by what is drawn

    def one(key: Key) -> Batch:
        keys = jax.random.split(key, 6)
        allowed = jnp.ones(len(source.group), bool)
        if within_groups:
            allowed = source.group == jax.random.randint(keys[0], (), 0, source.group.max() + 1)
        chosen = _among(keys[1], allowed[None], ways)[0]
        n = jax.random.randint(keys[2], (), least, jnp.minimum(ways, allowed.sum()) + 1)
        count = source.count[chosen]
        k = jax.random.randint(keys[3], (ways if not balanced else 1,), few, shots + 1)
        k = jnp.minimum(jnp.broadcast_to(k, (ways,)), count - query)
        rows = _among(keys[4], jnp.arange(largest)[None] < count[:, None], shots + query)
        there = jnp.arange(shots + query)[None] < (query + k)[:, None]
        there &= (jnp.arange(ways) < n)[:, None]
        at = jnp.where(there, source.first[chosen][:, None] + rows, 0)
        examples = jax.tree.map(lambda a: a[at.ravel()], source.x)
        if augment is not None:
            examples = augment(keys[5], examples)

        def kept(a: Array) -> Array:
            a = jnp.where(there.reshape(-1, *[1] * (a.ndim - 1)), a, jnp.zeros_like(a))
            return a.reshape(ways, shots + query, *a.shape[1:])

        examples = jax.tree.map(kept, examples)

        def part(cut: slice) -> dict[str, Any]:
            mask = there[:, cut]
            labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), mask.shape[1])
            x = jax.tree.map(lambda a: a[:, cut].reshape(-1, *a.shape[2:]), examples)
            return {"x": x, "y": labels, "mask": mask.ravel()}

        return {"support": part(slice(query, None)), "query": part(slice(0, query))}

    return jax.vmap(one)(keys)


def _among(key: Key, allowed: Array, count: int) -> Array:
    """Draws `count` places along the last axis without replacement: allowed ones first, then others."""
    words = (jax.random.bits(key, allowed.shape, jnp.uint32) >> 2) + 0x00800000  # positive floats, as in `_draw`
    return jax.lax.top_k(jnp.where(allowed, jax.lax.bitcast_convert_type(words, jnp.float32), 0), count)[1]


def _range(name: str, given: Any) -> tuple[int, int]:
    """The least and the most, from an integer or a pair of them.

    Raises:
      ValueError: for anything else, and for a least below 1 or above the most.
    """
    given = given.tolist() if isinstance(given, np.ndarray) else given
    ends = tuple(given) if isinstance(given, Sequence) else (given, given)
    if len(ends) != 2 or not all(map(checked.integer, ends)) or not 1 <= ends[0] <= ends[1]:
        raise ValueError(f"{name}={given}: must be an integer of at least 1, or a pair of them, the least and the most")
    return int(ends[0]), int(ends[1])


class varied_episodes(Drawn):
    """Data set of episodes that vary: `varied_episodes(bank(x, y), way=(5, 20), shot=(1, 5), query=10, tasks=8)[step]`.

    Every batch has the shape of the most ways and shots, and masks mark the rows that exist, so one program serves all.
    Prototypes, ridge regression and losses use the masks; BatchNorm does not, and sees the zeros of absent rows.

    Args:
      source: the result of `bank`; put on the device once, and drawn from there.
      way: the number of classes of an episode, or the least and the most.
      shot: the number of labelled examples of each class, or the least and the most; a class with too few examples in
        addition to its queries gives fewer.
      query: the number of examples of each class for evaluation.
      tasks: the number of episodes in the global batch; the processes share them.
      seed: the seed of the draws.
      steps: the value of `len`, because an epoch has no meaning here.
      balanced: whether all classes of an episode have the same number of shots; else each class draws its own.
      within_groups: whether all classes of an episode are from one group, such as characters of one alphabet.
      augment: `(key, x) -> x` on all images of a task.
      process_index: None asks jax when the first batch is drawn.
      process_count: likewise.

    Raises:
      ValueError: for numbers that are not integers of at least 1 or pairs of them, classes too small for the fewest
        shots and the queries, groups with fewer classes than the least way, a most that no class or group allows, or an
        invalid process.

    Example:
      >>> import numpy as np, jtl
      >>> source = jtl.data.bank(np.ones((30, 4), np.uint8), np.repeat(np.arange(3), [5, 10, 15]))
      >>> data = jtl.data.varied_episodes(source, way=(2, 3), shot=(1, 4), query=2, tasks=8)
      >>> data[0]["support"]["x"].shape, data[0]["support"]["mask"].shape
      ((8, 12, 4), (8, 12))

    Triantafillou et al., Meta-Dataset, 2019, arXiv 1903.03096, for episodes of varying ways and shots.
    """

    def __init__(
        self,
        source: Bank,
        *,
        way: Range,
        shot: Range,
        query: int,
        tasks: int,
        seed: int = 0,
        steps: int = 100,
        balanced: bool = True,
        within_groups: bool = False,
        augment: Augment | None = None,
        process_index: int | None = None,
        process_count: int | None = None,
    ) -> None:
        (least, ways), (few, shots) = _range("way", way), _range("shot", shot)
        checked.whole(1, query=query, tasks=tasks, steps=steps)
        count = np.asarray(source.count)
        if count.min() < few + query:
            raise ValueError(
                f"shot {few} + query {query} exceed the {count.min()} examples of class {int(count.argmin())}: leave"
                " classes that small out of the bank"
            )
        sizes = np.bincount(source.group) if within_groups else np.array([len(count)])
        if sizes.min() < least:
            raise ValueError(f"way is {way}, but group {int(sizes.argmin())} has only {sizes.min()} classes")
        if sizes.max() < ways:
            raise ValueError(f"way is {way}, but there are never more than {sizes.max()} classes to choose from")
        largest = int(count.max())
        if shots + query > largest:
            raise ValueError(f"shot is {shot}: with query {query} no class has more than {largest - query} left")
        options: dict[str, Any] = {"balanced": balanced, "within_groups": within_groups, "augment": augment}
        draw = partial(sample_varied, way=way, shot=shot, query=query, largest=largest, **options)
        self.size = int(count.sum())
        super().__init__(draw, source, tasks, seed, steps, (process_index, process_count))

"""Few-shot episodes, sampled by index on the device."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num
from jaxtyping import Key as PRNGKey

from jtl import checked
from jtl.data.arrays import numbers
from jtl.data.augment import Augment
from jtl.data.drawn import Drawn
from jtl.typing import Batch, Key


def sample(
    keys: PRNGKey[Array, " tasks"],
    x: Num[Array | np.ndarray, "classes per_class ..."],
    *,
    way: int,
    shot: int,
    query: int,
    rotations: bool = False,
    augment: Augment | None = None,
) -> Batch:
    """Draws episodes, with one key each; a pure function, to be jitted.

    Classes are drawn without replacement from all classes, then shot + query of each class's examples without
    replacement, so support and query are disjoint. Labels are the places 0..way-1.

    Args:
      keys: one per task, [tasks].
      x: examples by class, [classes, per_class, ...].
      way: the number of classes of an episode.
      shot: the number of labelled examples of each class.
      query: the number of examples of each class for evaluation.
      rotations: whether rotations by 0, 90, 180, 270 degrees, of axes 2 and 3, make four classes of each; class c +
        classes * k is class c rotated k times.
      augment: applied to all images of a task, `(key, [way * (shot + query), ...]) -> ...`; it may also normalise.

    Returns:
      {"support": {"x": [tasks, way * shot, ...], "y": int32 [tasks, way * shot]}, "query": likewise}; class by class.

    Raises:
      ValueError: for numbers that are not integers of at least 1.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> keys = jax.random.split(jax.random.key(0), 5)
      >>> tasks = jtl.data.sample(keys, jnp.zeros((6, 4, 2)), way=3, shot=1, query=2)
      >>> tasks["support"]["y"][0].tolist(), tasks["query"]["x"].shape
      ([0, 1, 2], (5, 6, 2))
    """
    checked.whole(1, way=way, shot=shot, query=query)
    return _sampled(keys, x, x.shape, x.dtype, way, shot, query, rotations, augment)


def _sampled(
    keys: PRNGKey[Array, " tasks"],
    x: Array | np.ndarray,
    whole: tuple[int, ...],
    dtype: Any,
    way: int,
    shot: int,
    query: int,
    rotations: bool,
    augment: Augment | None,
    counts: Array | None = None,
) -> Batch:
    """`sample` for examples [classes, per_class, ...] of this shape and type, or for their `packed` words.

    With `counts` [classes], x has so many examples of each class, side by side, [examples, ...], and per_class is the
    largest of these.
    """
    classes, per_class, *shape = whole
    turns = 4 if rotations else 1

    def one(key: Key) -> Batch:
        class_key, row_key, augment_key = jax.random.split(key, 3)
        chosen = _draw(class_key, (classes * turns,), way)
        own = chosen % classes
        if counts is None:
            flat, first, there = jnp.asarray(x).reshape(classes * per_class, *x.shape[2:]), own * per_class, None
        else:
            flat, first = jnp.asarray(x), (jnp.cumsum(counts) - counts)[own]
            there = jnp.arange(per_class)[None] < counts[own][:, None]
        place = first[:, None] + _draw(row_key, (way, per_class), shot + query, there)
        images = flat.at[place].get(mode="promise_in_bounds")
        if flat.shape[1:] != tuple(shape):
            images = jax.lax.bitcast_convert_type(images, dtype).reshape(way, shot + query, *shape)
        if rotations:
            quarter = [partial(jnp.rot90, k=k, axes=(1, 2)) for k in range(4)]
            images = jax.vmap(lambda k, image: jax.lax.switch(k, quarter, image))(chosen // classes, images)
        if augment is not None:
            flat = augment(augment_key, images.reshape(-1, *shape))
            images = flat.reshape(way, shot + query, *flat.shape[1:])

        def part(images: Any) -> dict[str, Any]:
            labels = jnp.repeat(jnp.arange(way, dtype=jnp.int32), images.shape[1])
            return {"x": images.reshape(-1, *images.shape[2:]), "y": labels}

        return {"support": part(images[:, :shot]), "query": part(images[:, shot:])}

    return jax.vmap(one)(keys)


def _draw(key: Key, shape: tuple[int, ...], count: int, there: Array | None = None) -> Array:
    """Draws indices along the last axis without replacement: the places of the largest of random numbers.

    Those that are not `there`, if it is given, are drawn last.

    The numbers are floats, because XLA's CPU backend finds the largest floats without sorting all: positive floats are
    ordered like their bits, and those from 0x00800000 to infinity are normal numbers.
    """
    words = (jax.random.bits(key, shape, jnp.uint32) >> 2) + 0x00800000
    if there is not None:
        words = jnp.where(there, words, jnp.uint32(0))
    return jax.lax.top_k(jax.lax.bitcast_convert_type(words, jnp.float32), count)[1]


def packed(x: np.ndarray) -> np.ndarray:
    """Packs bytes by class, [classes, per_class, ...], into 4-byte words; arrays that do not fit stay as they are.

    XLA's CPU backend gathers element by element, so a quarter of the elements is several times as fast.
    """
    if x.dtype.itemsize != 1 or x.dtype == bool or not x.size or x[0, 0].size % 4:
        return x
    return np.ascontiguousarray(x).reshape(*x.shape[:2], -1).view(np.uint32)


def split_classes(classes: int, sizes: Sequence[int], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Disjoint random sets of class indices, such as `split_classes(1623, (1100, 100, 423))` for Omniglot.

    Raises:
      ValueError: for sizes that are not integers of at least 1 or add up to more than there are classes, or a seed that
        is not an integer of at least 0.

    Example:
      >>> import jtl
      >>> train, test = jtl.data.split_classes(5, (3, 2))
      >>> sorted([*train.tolist(), *test.tolist()])
      [0, 1, 2, 3, 4]
    """
    checked.whole(1, classes=classes, **checked.each("sizes", sizes))
    checked.seed_of(seed)
    if sum(sizes) > classes:
        raise ValueError(f"sizes {tuple(sizes)} must add up to at most {classes} classes")
    order = np.random.default_rng(seed).permutation(classes)
    return tuple(np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1]))


class episodes(Drawn):
    """Data set of few-shot episodes: `episodes(x, way=5, shot=1, query=15, tasks=16)[step]`.

    Args:
      x: examples by class, [classes, per_class, ...], or an array [examples, ...] for each class, of any number of
        examples; put on the device once.
      way: the number of classes of an episode.
      shot: the number of labelled examples of each class.
      query: the number of examples of each class for evaluation.
      tasks: the number of episodes in the global batch; the processes share them.
      seed: the seed of the draws; step s draws from `rng.stream(key(seed), "episodes", s)`.
      steps: the value of `len`, because an epoch has no meaning here.
      rotations: see `sample`.
      augment: see `sample`.
      process_index: None asks jax when the first batch is drawn.
      process_count: likewise.

    Raises:
      ValueError: for numbers that are not integers of at least 1, too few classes or examples, NaN or numbers too large
        for 32 bits (in arrays that are not on the device yet), an invalid process, or tasks that the processes cannot
        share.
      TypeError: for an array that does not hold numbers.

    Example:
      >>> import numpy as np, jtl
      >>> tasks = jtl.data.episodes(np.zeros((6, 4, 2), np.float32), way=3, shot=1, query=2, tasks=5)
      >>> tasks[0]["support"]["x"].shape, tasks[0]["query"]["y"].shape
      ((5, 3, 2), (5, 6))
    """

    def __init__(
        self,
        x: Num[Array | np.ndarray, "classes per_class ..."] | Sequence[Num[Array | np.ndarray, "_ ..."]],
        *,
        way: int,
        shot: int,
        query: int,
        tasks: int,
        seed: int = 0,
        steps: int = 100,
        rotations: bool = False,
        augment: Augment | None = None,
        process_index: int | None = None,
        process_count: int | None = None,
    ) -> None:
        counts = None
        if isinstance(x, Sequence) and len({np.shape(own)[:1] for own in x}) > 1:
            x, counts = _side_by_side(x)
        elif not isinstance(x, jax.Array):
            x = numbers("x", x)
        if counts is None and x.ndim < 2:
            raise ValueError(f"x has shape {x.shape}; give [classes, per_class, ...]")
        shape = x.shape if counts is None else (len(counts), int(counts.max()), *x.shape[1:])
        checked.whole(1, way=way, shot=shot, query=query, tasks=tasks, steps=steps)
        if rotations and (len(shape) < 4 or shape[2] != shape[3]):
            raise ValueError(f"rotations need square images [classes, per_class, side, side, ...], got {shape}")
        there = shape[0] * (4 if rotations else 1)
        if way > there:
            raise ValueError(f"way is {way}, but there are only {there} classes")
        least = shape[1] if counts is None else int(counts.min())
        if shot + query > least:
            which = "a class" if counts is None else f"class {int(counts.argmin())}; leave out such classes"
            raise ValueError(f"shot {shot} + query {query} exceed the {least} examples of {which}")
        self.size = shape[0] * shape[1] if counts is None else len(x)
        dtype = x.dtype

        def draw(keys: Any, source: Any) -> Batch:
            held, sizes = (source, None) if counts is None else source
            return _sampled(keys, held, shape, dtype, way, shot, query, rotations, augment, sizes)

        source: Any = x if isinstance(x, jax.Array) else packed(x if counts is None else x[None])
        super().__init__(
            draw, source if counts is None else (source[0], counts), tasks, seed, steps, (process_index, process_count)
        )


def _side_by_side(x: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The examples of classes of any size, [examples, ...], and the number of each class's, int32 [classes]."""
    found = [numbers(f"x[{i}]", own) for i, own in enumerate(x)]
    if any(own.shape[1:] != found[0].shape[1:] or own.dtype != found[0].dtype for own in found):
        given = ", ".join(sorted({f"{own.dtype} {list(own.shape[1:])}" for own in found}))
        raise ValueError(f"the classes of x have examples of different types or shapes: {given}")
    return np.concatenate(found), np.array([len(own) for own in found], np.int32)

"""Loads batches onto the mesh ahead of time, all of one shape."""

from collections.abc import Generator, Mapping
from contextlib import closing
from typing import Any

import jax
from jax.sharding import Mesh

from jtl.data.prefetch import prefetch
from jtl.params import flatten
from jtl.train.parallel.sharding import put_batch


def feed(data: Any, steps: range, mesh: Mesh, *, fixed: bool = True) -> Generator[Any, None, None]:
    """`data[step]` for every step, loaded and put on the mesh by threads.

    Close the iterator (`contextlib.closing`) to end the threads early.

    Args:
      data: `data[step]` is a batch, this process's rows.
      steps: the steps to load, without gaps.
      mesh: where the batches go.
      fixed: whether all batches must have the shapes of the first, because a compiled step takes no others. In data
        with `lengths`, as from `jtl.data.by_length`, the second axis may have any of these lengths; likewise in data
        whose parts have `lengths`.

    Raises:
      ValueError: for a batch of other shapes, if they are to be fixed.
      TypeError: for a batch that is not a dict.
      Exception: whatever `data[step]` raises, with a note that names the step.
    """

    def placed(batch: Any) -> Any:
        if not isinstance(batch, Mapping):
            raise TypeError(f"a batch is a {type(batch).__name__}: give a dict, as {{'x': inputs, 'y': labels}}")
        return put_batch(batch, mesh=mesh)

    batches = prefetch(data, steps.start, placed, stop_step=steps.stop)
    first: dict[str, jax.ShapeDtypeStruct] = {}
    lengths = _lengths(data)
    with closing(batches):
        for step, batch in zip(steps, batches, strict=True):
            shapes = {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in flatten(batch).items()}
            first = first or shapes
            if fixed:
                _same(steps.start, first, step, shapes, lengths)
            yield batch


def _lengths(data: Any) -> frozenset[int]:
    if hasattr(data, "lengths"):
        return frozenset(data.lengths)
    return frozenset().union(*(_lengths(part) for part in getattr(data, "parts", ())))


def rows(batch: Any) -> dict[str, int]:
    """The number of rows of a batch on the mesh that belong to this process; all processes have the same number."""
    return {f"rows of {path!r}": leaf.shape[0] // jax.process_count() for path, leaf in flatten(batch).items()}


def _same(first: int, expected: dict, step: int, shapes: dict, lengths: frozenset[int]) -> None:
    for path in sorted(expected.keys() | shapes.keys()):
        if not _alike(expected.get(path), shapes.get(path), lengths):
            shown = ["absent" if s is None else f"{s.dtype}{s.shape}" for s in (shapes.get(path), expected.get(path))]
            raise ValueError(
                f"batch {step}: {path!r} is {shown[0]}, and was {shown[1]} in batch {first}; the step is"
                " compiled for one shape: pad the last batch and give it a mask"
            )


def _alike(one: Any, other: Any, lengths: frozenset[int]) -> bool:
    if one == other:
        return True
    if one is None or other is None or one.dtype != other.dtype or min(one.ndim, other.ndim) < 2:
        return False
    both = {one.shape[1], other.shape[1]} <= lengths
    return both and one.shape[:1] + one.shape[2:] == other.shape[:1] + other.shape[2:]

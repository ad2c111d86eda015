"""A data set whose batches are drawn on the device, each as a function of its step."""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jtl import rng
from jtl.checked import whole
from jtl.data.content import of_arrays
from jtl.data.processes import processes
from jtl.typing import Batch


class Drawn:
    """Batches `draw(keys, source)` with one key per task, compiled once.

    Args:
      draw: a pure function from keys [tasks] and the source to a batch with a leading axis of tasks.
      source: a tree of arrays to draw from; put on the device once.
      tasks: the number of tasks in the global batch; the processes share them.
      seed: the seed; step s draws from `rng.stream(key(seed), "episodes", s)`.
      steps: the value of `len`, because an epoch has no meaning here.
      process: this process's index and the number of processes; None asks jax when the first batch is drawn.

    Raises:
      ValueError: for tasks or steps that are not integers of at least 1, or an invalid process.
    """

    classes = None

    def __init__(
        self,
        draw: Callable[[Any, Any], Batch],
        source: Any,
        tasks: int,
        seed: int,
        steps: int,
        process: tuple[int | None, int | None],
    ) -> None:
        whole(1, tasks=tasks, steps=steps)
        if process != (None, None):
            processes(*process)  # wrong ones are refused at once
        self._steps, self._tasks = steps, tasks
        self.process_index, self.process_count = process
        self._source, self._key = jax.device_put(source), jax.random.key(seed)

        def batch(key: Any, step: Any, first: Any, source: Any, local: int) -> Batch:
            keys = jax.random.split(rng.stream(key, "episodes", step), tasks)
            return draw(jax.lax.dynamic_slice_in_dim(keys, first, local), source)

        self._batch = jax.jit(batch, static_argnames="local")

    @property
    def content(self) -> str:
        """A text that tells the examples from others. See `jtl.data.content`."""
        with jax.transfer_guard("allow"):
            return of_arrays(jax.device_get(self._source))

    def __len__(self) -> int:
        """The number of steps that was given."""
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        """The episodes of a step, on the device; with several processes each has its own tasks."""
        if (step := operator.index(step)) < 0:
            raise IndexError(f"step is {step}; steps count from 0")
        index, count = processes(self.process_index, self.process_count)
        if self._tasks % count:
            raise ValueError(f"{self._tasks} tasks do not divide by {count} processes")
        local = self._tasks // count
        # an explicit put, for loops that run under transfer_guard("disallow")
        at, first = jax.device_put((np.uint32(step), np.int32(index * local)))
        return self._batch(self._key, at, first, self._source, local=local)

    def __iter__(self) -> Iterator[Batch]:
        """The first `len` batches."""
        return (self[step] for step in range(len(self)))

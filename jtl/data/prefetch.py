"""Batches on the device before they are asked for."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax


def prefetch(
    dataset: Any,
    start_step: int = 0,
    put: Callable[[Any], Any] = jax.device_put,
    *,
    ahead: int = 2,
    threads: int = 2,
) -> Iterator[Any]:
    """Endless iterator over `put(dataset[step])` for step = start_step, start_step + 1, ...

    Threads read and put batches while earlier ones are in use; the order is that of the steps. `put` moves explicitly,
    so the iterator works under `jax.transfer_guard("disallow")`. An exception of the data set is raised at the step it
    belongs to, after the batches before it. `close()` (or leaving the generator) waits for reads under way and ends the
    threads.

    Args:
      dataset: anything with `dataset[step]`, which threads may call at once.
      start_step: the first step.
      put: host batch -> device batch, as `functools.partial(jax.device_put, device=sharding)`.
      ahead: batches kept ready beyond the one in use.
      threads: how many batches are read at once.

    Raises:
      ValueError: if ahead or threads is less than 1, or start_step is negative.
    """
    if ahead < 1 or threads < 1 or start_step < 0:
        raise ValueError(f"need ahead >= 1, threads >= 1, start_step >= 0; got {ahead}, {threads}, {start_step}")
    return _run(lambda step: put(dataset[step]), start_step, ahead, threads)


def _run(load: Callable[[int], Any], step: int, ahead: int, threads: int) -> Iterator[Any]:
    executor = ThreadPoolExecutor(threads, thread_name_prefix="jtl-prefetch")
    waiting: deque[Future] = deque()
    try:
        while True:
            while len(waiting) <= ahead:
                waiting.append(executor.submit(load, step))
                step += 1
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

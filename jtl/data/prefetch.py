"""Loads batches onto the device ahead of time."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import jax

from jtl.checked import whole
from jtl.data.error_notes import noted
from jtl.data.thread_settings import settings_here


def prefetch(
    dataset: Any,
    start_step: int = 0,
    put: Callable[[Any], Any] = jax.device_put,
    *,
    stop_step: int | None = None,
    ahead: int = 2,
    threads: int = 2,
) -> Generator[Any, None, None]:
    """Iterator over `put(dataset[step])` for step = start_step, start_step + 1, ...

    Threads read and put batches while earlier ones are in use; batches come in the order of the steps. `put` moves
    explicitly, so the iterator works under `jax.transfer_guard("disallow")`. An exception of the data set is raised at
    its step, after the batches before it, with a note that names the step. `close()` (or leaving the generator) waits
    for reads under way and ends the threads. The threads have the caller's jax settings, such as `jax.enable_x64(True)`
    or `jax.default_device`, except transfer guards.

    Args:
      dataset: anything with `dataset[step]`, which several threads may call at the same time.
      start_step: the first step.
      put: host batch -> device batch, such as `functools.partial(jax.device_put, device=sharding)`.
      stop_step: the step before which to stop; None never stops.
      ahead: the number of batches kept ready in addition to the one in use.
      threads: the number of batches read at the same time.

    Raises:
      ValueError: if `ahead` or `threads` is not an integer of at least 1, or `start_step` is negative.

    Example:
      >>> import numpy as np, jtl
      >>> data = jtl.data.arrays(np.arange(4.0)[:, None], batch_size=2, shuffle=False)
      >>> [batch["x"].tolist() for batch in jtl.data.prefetch(data, stop_step=2)]
      [[[0.0], [1.0]], [[2.0], [3.0]]]
    """
    whole(1, ahead=ahead, threads=threads)
    if start_step < 0:
        raise ValueError(f"start_step={start_step}: must be at least 0")
    settings = settings_here()

    def load(step: int) -> Any:
        with settings(), noted(f"batch {step} of the data was made"):
            return put(dataset[step])

    steps = count(start_step) if stop_step is None else range(start_step, stop_step)
    return _run(load, iter(steps), ahead, threads)


def _run(load: Callable[[int], Any], steps: Iterator[int], ahead: int, threads: int) -> Generator[Any, None, None]:
    executor = ThreadPoolExecutor(threads, thread_name_prefix="jtl-prefetch")
    waiting: deque[Future] = deque()
    try:
        while True:
            waiting.extend(executor.submit(load, step) for step in islice(steps, ahead + 1 - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

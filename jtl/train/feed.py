"""Batches on the devices before they are asked for."""

import queue
import threading
from collections.abc import Generator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jtl.params import flatten
from jtl.train.sharding import put_batch


def feed(
    data: Any, steps: Sequence[int], mesh: Mesh, *, ahead: int = 2, fixed: bool = True
) -> Generator[Any, None, None]:
    """`data[step]` for every step, loaded and put on the mesh by a thread of its own.

    Close the iterator (`contextlib.closing`) to end the thread early.

    Args:
      data: `data[step]` is a batch, this process's rows.
      steps: which.
      mesh: where the batches go.
      ahead: how many finished batches wait on the devices at most.
      fixed: all batches must have the shapes of the first, as a compiled step takes no others.

    Raises:
      ValueError: for a batch of other shapes, where they are to be fixed.
      Exception: whatever `data[step]` raises, with a note that names the step.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    over = threading.Event()

    def hand(item: Any) -> None:
        while not over.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        first = None
        for step in steps:
            if over.is_set():
                return
            try:
                batch = data[step]
                shapes = {
                    path: (np.shape(leaf), jax.dtypes.result_type(leaf))
                    for path, leaf in flatten(batch).items()
                }
                first = (step, shapes) if first is None else first
                if fixed:
                    _same(*first, step, shapes)
                hand((put_batch(batch, mesh), None))
            except BaseException as error:  # raised again where the batch is asked for
                error.add_note(f"while batch {step} of the data was made")
                hand((None, error))
                return

    thread = threading.Thread(target=work, name="jtl-feed", daemon=True)
    thread.start()
    try:
        for _ in steps:
            batch, error = ready.get()
            if error is not None:
                raise error
            yield batch
    finally:
        over.set()
        thread.join()


def _same(first: int, expected: dict, step: int, shapes: dict) -> None:
    for path in sorted(expected.keys() | shapes.keys()):
        if expected.get(path) != shapes.get(path):
            shown = [
                "absent" if s is None else f"{s[1]}{s[0]}" for s in (shapes.get(path), expected.get(path))
            ]
            raise ValueError(
                f"batch {step}: {path!r} is {shown[0]}, and was {shown[1]} in batch {first}; the step is"
                " compiled for one shape: pad the last batch and give it a mask"
            )

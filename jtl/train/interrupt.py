"""SIGTERM, SIGHUP and Ctrl-C as requests to stop after the current step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl.train.parallel.sharding import batch_sharding


class StopRequest:
    """A context in which SIGTERM, SIGHUP and SIGINT request a stop; a second Ctrl-C interrupts at once.

    A terminal that is closed sends SIGHUP; a process that ignores it, as under `nohup`, goes on ignoring it.

    Signals can be caught only in the main thread; in other threads this does nothing. The previous handlers are
    restored at the end.

    Args:
      mesh: the mesh of the run; if it spans processes, a request to one stops all of them, after the same step.
    """

    def __init__(self, mesh: Mesh):
        self._name: str | None = None
        self._before: dict[int, Any] = {}
        self._answer: Any = None
        self._local = len(mesh.local_devices)
        self._rows = batch_sharding(mesh)
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP", "SIGINT"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                    continue
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self._name == "SIGINT":
            raise KeyboardInterrupt
        self._name = signal.Signals(number).name

    def asked(self) -> str | None:
        """The signal's name if the run should stop now; with several processes, one call after it arrived."""
        if jax.process_count() == 1:
            return self._name
        # All processes call this at each step. The answer to one call is read at the next, so no step waits for it.
        with jax.transfer_guard("allow"):
            flags = jax.make_array_from_process_local_data(self._rows, np.full(self._local, self._name is not None))
        before, self._answer = self._answer, self._any(flags)
        if before is None or not bool(jax.device_get(before)):
            return None
        return self._name or "a signal to another process"

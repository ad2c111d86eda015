"""The outcome of one injected fault, and running a fault in a process of its own."""

import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

Outcome = Literal["survived", "told", "wrong", "lost"]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["benchmarks.injected.runs"])
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""XLA's flags for fast compilation, which takes most of the time of a small run."""
PATIENCE = 240
"""Seconds after which a child process counts as hanging."""


class Trial(NamedTuple):
    """One injected fault.

    Args:
      kind: kind of the fault.
      outcome: "survived": resumed, or unchanged, with the same bits as the undisturbed run. "told": an error names the
        cause, and all that was saved is still there. "wrong": other bits or no error. "lost": a finished save is gone.
      detail: the exact trial, and what happened.
    """

    kind: str
    outcome: Outcome
    detail: str


def told(error: BaseException, *names: str) -> bool:
    """Whether an error, its notes or its causes contain one of these names."""
    texts, one = [], error
    while one is not None:
        texts += [str(one), *getattr(one, "__notes__", [])]
        one = one.__cause__ or one.__context__
    return any(name in text for text in texts for name in names)


def apart(work: Callable[..., list[Trial]], *args: Any, folder: Path, devices: int = 1) -> list[Trial]:
    """The trials that `work(folder, *args)` returns in a child process; if it dies or hangs, the trial is wrong."""
    folder.mkdir(parents=True)
    child = CONTEXT.Process(target=_answer, args=(work, args, folder, devices))
    child.start()
    child.join(PATIENCE)
    answer = folder / "answer.json"
    if child.exitcode != 0 or not answer.exists():
        end = "it hangs" if child.exitcode is None else f"exit {child.exitcode}"
        child.kill()
        child.join()
        said = (folder / "log").read_text()[-6500:]
        return [Trial(work.__name__, "wrong", f"the process did not end as it should, {end}: {said}")]
    return [Trial(*row) for row in json.loads(answer.read_text())]


def _answer(work: Callable[..., list[Trial]], args: tuple, folder: Path, devices: int) -> None:
    begin(folder / "log", devices, folder.parent / "compiled")
    try:
        trials = work(folder, *args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    (folder / "answer.json").write_text(json.dumps(trials))


def begin(log: Path, devices: int, compiled: Path) -> None:
    """Turns a forked child into a fresh process: its output goes to a file, and jax starts with `devices` devices."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ["XLA_FLAGS"] = f"{QUICK} --xla_force_host_platform_device_count={devices}"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

"""The tools of every benchmark: fair timing of several programs in one run, their cost, and their environment."""

import datetime
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOP/s of a device, by a part of its kind's name (NVIDIA's data sheets, SXM)."""


class Program(NamedTuple):
    """A compiled step, its compile time, and XLA's analysis of its cost."""

    run: Callable
    compile_seconds: float
    flops: float
    memory_bytes: int


class Timing(NamedTuple):
    """Seconds per step of each program, sample by sample; the i-th samples were taken side by side."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """The median sample of one program, in seconds per step."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """The lower quartile, median and upper quartile of `seconds[name] / seconds[other]`, pair by pair."""
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, middle, high


def compiled(jitted: Any, *args: Any) -> Program:
    """Traces and compiles for these arguments.

    `flops` are XLA's, in which the body of a loop counts once. `memory_bytes` is the program's peak: arguments, results
    that do not overwrite arguments, and temporaries.
    """
    began = time.perf_counter()
    run = jitted.lower(*args).compile()
    seconds = time.perf_counter() - began
    memory = run.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(run, seconds, run.cost_analysis()["flops"], held + memory.temp_size_in_bytes)


def chain(run: Callable, state: Any, batch: Any) -> Callable[[int], Any]:
    """Returns `steps(n)`, which takes n training steps, each from the state the last one left, and waits for them."""

    def steps(n: int) -> Any:
        nonlocal state
        metrics = None
        for _ in range(n):
            state, metrics = run(state, batch)
        return jax.block_until_ready((state, metrics))[1]

    return steps


def interleaved(
    programs: Mapping[str, Callable[[int], Any]], *, pairs: int, seconds: float, rest: float = 0.0
) -> Timing:
    """Times programs in turns, A B, B A, A B, ..., so that other load on the machine affects all of them alike.

    Args:
      programs: functions that take n steps and wait for them; each has run before.
      pairs: number of samples of each.
      seconds: least duration of a sample; every program takes the same number of steps.
      rest: idle seconds before a sample, because threads of a library may spin for a while after their work.
    """
    slowest = max(_clock(run, 1) for run in programs.values())
    steps = max(1, round(seconds / slowest))
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for i in range(pairs):
        for name in list(programs)[:: 1 if i % 2 == 0 else -1]:
            time.sleep(rest)
            taken[name].append(_clock(programs[name], steps) / steps)
    return Timing(taken)


def _clock(run: Callable[[int], Any], steps: int) -> float:
    began = time.perf_counter()
    run(steps)
    return time.perf_counter() - began


def on_gpu() -> bool:
    """Whether jax computes on a GPU."""
    return jax.default_backend() == "gpu"


def peak_flops() -> float | None:
    """The device's dense bfloat16 FLOP/s, or None if it is not in the table."""
    kind = jax.devices()[0].device_kind
    return next((peak for name, peak in PEAK_BF16.items() if name in kind), None)


def peak_bytes() -> int | None:
    """The peak memory of this process on the device so far; None if the device does not report it."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def environment(argv: Sequence[str]) -> dict[str, Any]:
    """Where and how a benchmark ran, for its results file."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"benchmarks/{Path(argv[0]).name}", *argv[1:]]),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": _cpu() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    """The processor's name; on Linux the platform module does not know it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())

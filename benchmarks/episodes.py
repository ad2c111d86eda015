"""How many few-shot episodes are sampled per second: Omniglot's size, uint8 on the device, one compiled program.

    python benchmarks/episodes.py

Random images [1,100 characters, 20, 28, 28]; 5-way 1-shot with 15 queries, 512 episodes per call. The second row has
single numbers in place of images, so that only the draw is timed; the third draws 2 to 5 ways and 1 to 5 shots within
alphabets.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

from benchmarks import measure, tables
from jtl import data

TASKS, CALLS = 512, 30


def rate(dataset: Any, calls: int = CALLS) -> float:
    """Episodes per second, by the median call after the first."""

    def seconds(step: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(dataset[step])
        return time.perf_counter() - began

    return len(dataset[0]["query"]["y"]) / median([seconds(step) for step in range(1, calls + 1)])


def datasets(tasks: int = TASKS) -> dict[str, Callable[[], Any]]:
    """The measured data sets by name."""
    x = np.random.default_rng(0).integers(0, 256, (1100, 20, 28, 28), np.uint8)
    y = np.repeat(np.arange(1100), 20)
    groups = np.arange(1100) // 35
    varied: dict[str, Any] = {"way": (2, 5), "shot": (1, 5), "query": 15, "tasks": tasks}
    return {
        "5-way 1-shot, 15 queries": lambda: data.episodes(x, way=5, shot=1, query=15, tasks=tasks),
        "the same, indices alone": lambda: data.episodes(
            np.arange(22_000).reshape(1100, 20), way=5, shot=1, query=15, tasks=tasks
        ),
        "2 to 5 ways, 1 to 5 shots, within groups": lambda: data.varied_episodes(
            data.bank(x.reshape(-1, 28, 28), y, groups=groups), within_groups=True, **varied
        ),
    }


def main(argv: list[str]) -> None:
    """Measures, prints and saves the table."""
    where = measure.environment(argv)
    found = [{"name": name, "rate": rate(make())} for name, make in datasets().items()]
    results = {"benchmark": "episodes", "environment": where, "rows": found}
    print(tables.render(results))
    tables.write(results, ROOT / "benchmarks" / "results" / f"episodes-{where['backend']}.json")


if __name__ == "__main__":
    main(sys.argv)

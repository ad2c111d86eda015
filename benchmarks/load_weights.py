"""Time and memory of `jtl.load`, next to reading the same bytes: ViT-B/16 from safetensors.

    python benchmarks/load_weights.py        (a minute)

The file holds random numbers under transformers' names, and is in the page cache. Reading is NumPy's `fromfile` of the
whole file into new memory. Each process loads once before anything was traced ("first"), then reads and loads in turns.
Before the turns it writes once to more memory than they use, because the host of a virtual machine may back pages only
when they are first written to, which takes many times as long as the measured work. Memory is the peak of the process
during the first load, minus its memory before, divided by the size of the file.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

import jtl.pretrained.load
from benchmarks import measure, tables
from jtl import heads
from jtl._tracing.eval_shape import shapes
from jtl.backbones.registry import FAMILIES
from jtl.networks import network
from jtl.weights import export

PROCESSES, PAIRS = 5, 7
TOUCHED = 8  # times the file's size


def write(folder: Path) -> None:
    """A ViT-B/16 of random numbers."""
    from safetensors.numpy import save_file

    family = FAMILIES["vit"]
    config = family.complete({"model_type": "vit"}, "transformers")
    made = shapes(
        lambda key, x: network(backbone=family.backbone(config), head=heads.linear(1000)).init(key, x),
        jax.random.key(0),
        family.example(config),
    )
    draw = np.random.default_rng(0)
    tree = jax.tree.map(lambda leaf: draw.standard_normal(leaf.shape, np.float32), dict(made.params))
    save_file(export(tree, family.tables(config)["transformers"]), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))


def clock(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def peak() -> int:
    """The peak memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def one_process(folder: Path) -> dict[str, Any]:
    file = folder / "model.safetensors"
    runs = {"read": partial(np.fromfile, file, np.uint8), "load": partial(jtl.pretrained.load.load, folder)}
    before = peak()
    first = clock(runs["load"])
    held = peak() - before
    np.ones(TOUCHED * file.stat().st_size, np.uint8)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(PAIRS):
        for name in list(runs)[:: 1 if i % 2 == 0 else -1]:
            taken[name].append(clock(runs[name]))
    return {"first": first, "held": held, **taken}


def row(runs: list[dict[str, Any]], size: int) -> dict[str, Any]:
    read = [seconds for run in runs for seconds in run["read"]]
    load = [seconds for run in runs for seconds in run["load"]]
    ratios = [b / a for a, b in zip(read, load, strict=True)]
    return {
        "weights": "ViT-B/16, safetensors, float32",
        "file_bytes": size,
        "read_seconds": statistics.median(read),
        "load_seconds": statistics.median(load),
        "load_over_read": statistics.quantiles(ratios, n=4, method="inclusive"),
        "first_load_seconds": statistics.median(run["first"] for run in runs),
        "first_load_over_read": statistics.median(run["first"] / statistics.median(run["read"]) for run in runs),
        "memory_over_file": max(run["held"] for run in runs) / size,
    }


def main(argv: list[str]) -> None:
    """Prints the numbers and writes `results/load_weights-cpu.json`."""
    if len(argv) > 1:
        print(json.dumps(one_process(Path(argv[1]))))
        return
    where, runs = measure.environment(argv), []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        size = os.path.getsize(Path(folder) / "model.safetensors")
        for _ in range(PROCESSES):
            done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
    found = row(runs, size)
    print(json.dumps(found, indent=2))
    results = {"benchmark": "load_weights", "environment": where, "rows": [found], "runs": runs}
    tables.write(results, ROOT / "benchmarks" / "results" / f"load_weights-{where['backend']}.json")


if __name__ == "__main__":
    main(sys.argv)

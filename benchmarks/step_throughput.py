"""The speed of jtl's step, and its share of the speed of a hand-written jit step that does the same work.

    python benchmarks/step_throughput.py                                  # every family x mlp, conv4, resnet18, vit_ti
    python benchmarks/step_throughput.py --families finetune --backbones resnet50 convnext_t vit_s bert_base minilm
    python benchmarks/step_throughput.py --families maml --backbones conv4 --pairs 15
    python benchmarks/step_throughput.py --isolate --dtype bfloat16 --backbones resnet50 vit_s vit_b     # on a GPU

Both steps train side by side in one process, sample by sample; the share is the median of the samples' ratios. It stops
with an error if the two do not compute the same loss. Writes JSON, and a Markdown table made from it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

from benchmarks import handwritten, tables
from benchmarks.measure import (
    chain,
    compiled,
    environment,
    interleaved,
    on_gpu,
    peak_bytes,
    peak_flops,
)
from benchmarks.setups import FAMILIES, NETWORKS, Cell, build
from jtl.train import jit_step, mesh, put_batch

BACKBONES = ("mlp", "conv4", "resnet18", "vit_ti")
ON_CPU = {
    "mlp": (256, 28),
    "conv4": (64, 28),
    "resnet18": (8, 32),
    "vit_ti": (4, 224),
    "resnet50": (2, 224),
    "convnext_t": (2, 224),
    "vit_s": (2, 224),
    "vit_b": (1, 224),
    "bert_base": (2, 128),
    "minilm": (8, 64),
    "wav2vec2_base": (1, 32000),
}
ON_GPU = {
    "mlp": (1024, 28),
    "conv4": (1024, 28),
    "resnet18": (512, 32),
    "vit_ti": (512, 224),
    "resnet50": (256, 224),
    "vit_s": (256, 224),
    "vit_b": (128, 224),
    "convnext_t": (256, 224),
    "bert_base": (128, 128),
    "minilm": (512, 64),
    "wav2vec2_base": (64, 32000),
}
"""Rows of a batch and their size, such that a step takes about a second on two cores, or fills a GPU."""


def cell_for(family: str, backbone: str, options: argparse.Namespace) -> Cell:
    """The sizes at which a family x backbone is measured on this device."""
    gpu = on_gpu()
    batch, size = (ON_GPU if gpu else ON_CPU)[backbone]
    cell = Cell(family, backbone, options.batch or batch, options.size or size, dtype=options.dtype)
    if family == "dann":  # as many rows go through the backbone as in the other families
        return cell._replace(batch=max(1, cell.batch // 2))
    if family != "maml":
        return cell
    tasks = options.batch or (32 if gpu or backbone in ("mlp", "conv4") else 2)
    size = options.size or (64 if backbone.startswith("vit") else cell.size)
    query = 15 if gpu or backbone in ("mlp", "conv4") else 3
    return cell._replace(batch=tasks, classes=5, size=size, query=query, microbatch=1 if gpu else tasks)


def measure(cell: Cell, pairs: int, seconds: float) -> dict[str, Any]:
    """One row: jtl's step and the hand-written one, compiled, compared and timed."""
    setup = build(cell)
    where = mesh(devices=jax.devices()[:1])
    run, state = jit_step(setup.step, setup.step.init(setup.variables, jax.random.key(1)), where)
    batch = put_batch(setup.batch, where)
    jtl = compiled(run, state, batch)
    plain_state, update = handwritten.write(setup)
    plain_batch = jax.device_put(setup.batch, jax.devices()[0])
    plain = compiled(jax.jit(update, donate_argnums=0), plain_state, plain_batch)
    steps = {"jtl": chain(jtl.run, state, batch), "handwritten": chain(plain.run, plain_state, plain_batch)}
    losses = {name: [float(run(1)["loss"]) for _ in range(2)] for name, run in steps.items()}
    # Equal bits are not guaranteed, because XLA may sum in another order. bfloat16 has 8 bits of mantissa.
    tolerance = 1e-4 if cell.dtype == "float32" else 2e-2
    np.testing.assert_allclose(losses["jtl"], losses["handwritten"], rtol=tolerance, err_msg=str(cell))
    timing = interleaved(steps, pairs=pairs, seconds=seconds)
    low, share, high = timing.ratio("handwritten", "jtl")
    step = timing.median("jtl")
    peak = peak_flops() if cell.dtype == "bfloat16" else None
    # XLA counts a loop's body once, so a program with loops has no MFU here.
    loops = cell.microbatch > 1 or (cell.family == "maml" and cell.inner_steps > 1)
    return {
        **cell._asdict(),
        "unit": NETWORKS[cell.backbone].unit,
        "examples": setup.examples,
        "examples_per_second": setup.examples / step,
        "steps_per_second": 1 / step,
        "step_seconds": timing.seconds,
        "share": share,
        "share_quartiles": [low, high],
        "compile_seconds": {"jtl": jtl.compile_seconds, "handwritten": plain.compile_seconds},
        "flops": {"jtl": jtl.flops, "handwritten": plain.flops},
        "memory_bytes": {"jtl": jtl.memory_bytes, "handwritten": plain.memory_bytes},
        "device_peak_bytes": peak_bytes(),
        "mfu": None if peak is None or loops else jtl.flops / step / peak,
        "loss": losses["jtl"],
    }


def isolated(family: str, backbone: str, argv: Sequence[str]) -> dict[str, Any]:
    """Measures one cell in a process of its own, so that the process's peak memory on the device is the cell's."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cell.json"
        cell = ["--families", family, "--backbones", backbone, "--json", str(out)]
        subprocess.run([sys.executable, __file__, *argv, "--within", *cell], check=True)
        return json.loads(out.read_text())


def main(argv: Sequence[str]) -> None:
    """Measures every requested cell and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--backbones", nargs="+", choices=tuple(NETWORKS), default=BACKBONES)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, help="rows of a batch, or tasks; by default what suits the device")
    parser.add_argument("--size", type=int, help="side of the images, tokens of a text, samples of a sound")
    parser.add_argument("--pairs", type=int, default=7, help="samples of each step")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a sample lasts at least")
    parser.add_argument("--isolate", action="store_true", help="one process a cell, for the device's peak memory")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="by default benchmarks/results/step_throughput-BACKEND.json")
    options = parser.parse_args(argv[1:])
    cells = [(family, backbone) for backbone in options.backbones for family in options.families]
    rows, where = [], None
    for family, backbone in cells:
        if options.isolate and not options.within:
            found = isolated(family, backbone, argv[1:])
            where, row = where or found["environment"], found["rows"][0]
        else:
            where = where or environment(argv)
            row = measure(cell_for(family, backbone, options), options.pairs, options.seconds)
        rows.append(row)
        if not options.within:
            where["command"] = environment(argv)["command"]
        path = options.json or ROOT / "benchmarks" / "results" / f"step_throughput-{where['backend']}.json"
        # Written after every cell, so that results before an error or an interrupt are kept.
        tables.write({"benchmark": "step_throughput", "environment": where, "rows": rows}, path)
        if not options.within:
            print(f"{family} {backbone}: {row['steps_per_second']:.3g} steps/s, share {row['share']:.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv)

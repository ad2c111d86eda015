"""jtl against PyTorch: the same network, weights and batch, trained side by side in one run.

    python benchmarks/against_torch.py                                    # fine-tuning, DANN and MAML
    python benchmarks/against_torch.py --cases finetune-resnet18 --pairs 15
    python benchmarks/against_torch.py --dtype bfloat16 --compile         # on a GPU; torch's networks compiled too

It stops with an error if the first losses differ. The ratio is torch's time over jtl's, the median of the samples'
ratios: above 1, jtl is faster. Writes JSON, and a Markdown table made from it. It needs torch, unlike jtl itself.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory on the same GPU

import jax
import numpy as np
import torch

from benchmarks import tables
from benchmarks.measure import chain, compiled, environment, interleaved, on_gpu
from benchmarks.setups import Cell, Setup, build
from benchmarks.torch_steps import Twin
from jtl.allocator import keep_freed_memory
from jtl.train import jit_step, mesh, put_batch


class Case(NamedTuple):
    """The cells that are compared, on two cores and on a GPU, and the target for the ratio of speeds on a CPU."""

    cpu: Cell
    gpu: Cell
    aim: float | None


def _maml(inner_steps: int) -> Case:
    cpu = Cell("maml", "conv4", 16, 28, classes=5, shot=1, query=15, inner_steps=inner_steps, microbatch=16)
    return Case(cpu, cpu._replace(batch=32, microbatch=1), 2.0)


CASES = {
    "finetune-resnet18": Case(Cell("finetune", "resnet18", 32, 32), Cell("finetune", "resnet18", 512, 32), 0.8),
    "finetune-vit_ti": Case(Cell("finetune", "vit_ti", 8, 224), Cell("finetune", "vit_ti", 256, 224), 1.0),
    "dann-mlp": Case(Cell("dann", "mlp", 128, 28), Cell("dann", "mlp", 1024, 28), 1.0),
    "dann-conv4": Case(Cell("dann", "conv4", 64, 28), Cell("dann", "conv4", 1024, 28), 1.0),
    "cdan-conv4": Case(Cell("cdan", "conv4", 64, 28), Cell("cdan", "conv4", 1024, 28), 1.0),
    "mmd-conv4": Case(Cell("mmd", "conv4", 64, 28), Cell("mmd", "conv4", 1024, 28), 1.0),
    "mcd-mlp": Case(Cell("mcd", "mlp", 128, 28), Cell("mcd", "mlp", 1024, 28), 1.0),
    "mcd-conv4": Case(Cell("mcd", "conv4", 64, 28), Cell("mcd", "conv4", 1024, 28), 1.0),
    "tent-resnet18": Case(Cell("tent", "resnet18", 32, 32), Cell("tent", "resnet18", 512, 32), 1.0),
    "maml-1": _maml(1),
    "maml-5": _maml(5),
    "finetune-vit_b": Case(Cell("finetune", "vit_b", 1, 224), Cell("finetune", "vit_b", 128, 224), None),
}
ON_CPU = (
    "finetune-resnet18",
    "finetune-vit_ti",
    "dann-mlp",
    "dann-conv4",
    "cdan-conv4",
    "mmd-conv4",
    "mcd-mlp",
    "mcd-conv4",
    "tent-resnet18",
    "maml-1",
    "maml-5",
)


def measure(cell: Cell, aim: float | None, options: argparse.Namespace) -> dict[str, Any]:
    """Returns one row: both sides' seconds per step, and those of the forward pass and the gradient alone."""
    setup = build(cell)
    where = mesh(devices=jax.devices()[:1])
    run, state = jit_step(setup.step, setup.step.init(setup.variables, jax.random.key(1)), where)
    batch = put_batch(setup.batch, where)
    program = compiled(run, state, batch)
    step = chain(program.run, state, batch)
    device = "cuda" if on_gpu() else "cpu"
    twin = Twin(setup, device, channels_last=options.channels_last, fuse=options.compile)
    torch_step = twin.repeat(twin.step)
    losses = {"jtl": float(step(1)["loss"]), "torch": torch_step(1)}
    tolerance = 1e-4 if cell.dtype == "float32" else 2e-2
    np.testing.assert_allclose(losses["jtl"], losses["torch"], rtol=tolerance, err_msg=f"first losses of {cell}")
    both = {"jtl": step, "torch": torch_step}
    timing = interleaved(both, pairs=options.pairs, seconds=options.seconds, rest=0.2)
    low, ratio, high = timing.ratio("torch", "jtl")
    return {
        **cell._asdict(),
        "examples": setup.examples,
        "aim": aim,
        "ratio": ratio,
        "ratio_quartiles": [low, high],
        "seconds": {name: timing.median(name) for name in both},
        "fastest": {name: min(timing.seconds[name]) for name in both},
        "step_seconds": timing.seconds,
        "parts": parts(setup, twin, options) if options.parts and cell.family == "finetune" else None,
        "compile_seconds": program.compile_seconds,
        "flops": program.flops,
        "first_loss": losses,
    }


def parts(setup: Setup, twin: Twin, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Splits the time: seconds of the loss alone, and of the loss with its gradient; the optimizer takes the rest."""
    from benchmarks.handwritten import finetune_loss

    loss_of = finetune_loss(setup)
    arguments = jax.device_put((setup.variables.params, setup.variables.stats.get("backbone", {}), setup.batch))
    forward = jax.jit(lambda *a: loss_of(*a)[0])
    gradient = jax.jit(lambda *a: jax.value_and_grad(loss_of, has_aux=True)(*a))
    sides = {
        "jtl": {"forward": _repeat(forward, arguments), "gradient": _repeat(gradient, arguments)},
        "torch": {"forward": twin.repeat(twin.forward), "gradient": twin.repeat(twin.gradient)},
    }
    runs = {f"{side} {part}": run for side, found in sides.items() for part, run in found.items()}
    for run in runs.values():
        run(1)
    timing = interleaved(runs, pairs=max(2, options.pairs // 2), seconds=options.seconds, rest=0.2)
    return {side: {part: timing.median(f"{side} {part}") for part in found} for side, found in sides.items()}


def _repeat(run: Any, arguments: Any) -> Any:
    def steps(n: int) -> None:
        for _ in range(n):
            jax.block_until_ready(run(*arguments))

    return steps


def main(argv: Sequence[str]) -> None:
    """Measures the requested cases and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), help="by default those that suit the device")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, help="rows of a batch, or tasks")
    parser.add_argument("--size", type=int, help="side of the images")
    parser.add_argument("--pairs", type=int, default=7, help="samples of each side")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a sample lasts at least")
    parser.add_argument("--parts", action="store_true", help="time forward pass and gradient too (fine-tuning)")
    parser.add_argument("--channels-last", action="store_true", help="torch's other memory layout")
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone (not for maml)")
    parser.add_argument("--json", type=Path, help="by default benchmarks/results/against_torch-BACKEND.json")
    options = parser.parse_args(argv[1:])
    torch.set_float32_matmul_precision("high")  # as jax multiplies float32 on a GPU; no difference on a CPU
    where = environment(argv) | {
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }
    path = options.json or ROOT / "benchmarks" / "results" / f"against_torch-{where['backend']}.json"
    rows = []
    for name in options.cases or (tuple(CASES) if on_gpu() else ON_CPU):
        case = CASES[name]
        cell = (case.gpu if on_gpu() else case.cpu)._replace(dtype=options.dtype)
        if options.batch:
            cell = cell._replace(batch=options.batch, microbatch=options.batch if cell.microbatch > 1 else 1)
        cell = cell._replace(size=options.size or cell.size)
        rows.append({"case": name, **measure(cell, None if on_gpu() else case.aim, options)})
        # Written after every case, so that results before an error or an interrupt are kept.
        tables.write({"benchmark": "against_torch", "environment": where, "rows": rows}, path)
        found = rows[-1]["seconds"]
        print(f"{name}: jtl {found['jtl']:.3g} s, torch {found['torch']:.3g} s, {rows[-1]['ratio']:.2f}", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    main(sys.argv)

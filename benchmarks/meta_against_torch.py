"""MAML against PyTorch: the same conv4, weights and episodes in jtl's compiled step and two ways to write it in torch.

    python benchmarks/meta_against_torch.py                             # 1 and 5 inner steps, 32 tasks, 64 filters
    python benchmarks/meta_against_torch.py --tasks 8 --filters 32 --inner-steps 1

"loop" is the algorithm of learn2learn: a copy of the parameters for each task, `torch.autograd.grad` with
`create_graph`, and one backward pass per task. "torch.func" is `functional_call`, `grad` and `vmap` over the tasks.
5-way 1-shot with 15 queries per class, BatchNorm with batch statistics, second order. It stops with an error if the
losses or the meta-gradients differ. A ratio is torch's time over jtl's, the median of the samples' ratios: above 1, jtl
is faster. `memory` is the growth of the process in one step. Writes JSON, and a Markdown table made from it. It needs
torch, unlike jtl itself; on a busy machine set OMP_WAIT_POLICY=passive.
"""

import argparse
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import optax
import torch
from torch import Tensor
from torch.nn import functional as F

import jtl
from benchmarks import tables
from benchmarks.measure import chain, compiled, environment, interleaved
from benchmarks.torch_nets import Conv4, Head, Net, Norm, carry, images
from jtl.params import flatten

WAY, SHOT, QUERY, SIDE = 5, 1, 15, 28
INNER_LR, LR, BETA = 0.01, 1e-3, 0.9
AIMS = {("loop", 1): 2.0, ("loop", 5): 3.0, ("torch.func", 1): 1.5, ("torch.func", 5): 1.5}


class Torch:
    """Both ways of torch, each with its own copy of the network and its optimizer.

    Args:
      variables: jtl's variables.
      batch: jtl's batch.
      filters: number of filters of the network.
      inner_steps: number of inner steps of a task.
      vmapped: whether to use `torch.func` instead of the loop.
    """

    def __init__(self, variables: jtl.Variables, batch: Any, filters: int, inner_steps: int, vmapped: bool):
        self.net = Net(Conv4(1, filters), Head(filters, WAY))
        carry(variables.params, variables.stats, self.net)
        for module in self.net.modules():
            if isinstance(module, Norm):
                module.follows = False
        self.batch, self.inner_steps, self.vmapped = images(batch, "cpu", torch.contiguous_format), inner_steps, vmapped
        self.tx = torch.optim.Adam(self.net.parameters(), lr=LR, betas=(BETA, 0.999), fused=True)

    def step(self) -> Tensor:
        """Takes one meta-step; returns the loss before it."""
        self.tx.zero_grad(set_to_none=True)
        loss = self._vmapped() if self.vmapped else self._loop()
        self.tx.step()
        return loss

    def steps(self, n: int) -> float:
        """Takes `n` meta-steps."""
        return [float(self.step()) for _ in range(n)][-1]

    def gradient(self) -> dict[str, np.ndarray]:
        """The meta-gradient of the first step, from Adam's first moment."""
        named = self.net.named_parameters()
        return {name: self.tx.state[p]["exp_avg"].numpy() / (1 - BETA) for name, p in named}

    def _loss(self, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(self.net, params, (x,)), y)

    def _loop(self) -> Tensor:
        support, query = self.batch["support"], self.batch["query"]
        tasks, total = len(support["y"]), torch.zeros(())
        for i in range(tasks):
            fast = {name: p.clone() for name, p in self.net.named_parameters()}
            for _ in range(self.inner_steps):
                loss = self._loss(fast, support["x"][i], support["y"][i])
                grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {name: p - INNER_LR * g for (name, p), g in zip(fast.items(), grads, strict=True)}
            loss = self._loss(fast, query["x"][i], query["y"][i]) / tasks
            loss.backward()
            total += loss.detach()
        return total

    def _vmapped(self) -> Tensor:
        params: Any = dict(self.net.named_parameters())
        support, query = self.batch["support"], self.batch["query"]

        def task(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
            fast = params
            for _ in range(self.inner_steps):
                grads = torch.func.grad(self._loss)(fast, x, y)
                fast = {name: p - INNER_LR * grads[name] for name, p in fast.items()}
            return self._loss(fast, query_x, query_y)

        loss = torch.func.vmap(task)(support["x"], support["y"], query["x"], query["y"]).mean()
        loss.backward()
        return loss.detach()


def episodes(tasks: int, size: int = SIDE) -> dict[str, Any]:
    """Random images of classes that differ by their mean."""
    draw = np.random.default_rng(0)
    means = draw.normal(size=(tasks, WAY, 1, size, size, 1))

    def part(count: int) -> dict[str, np.ndarray]:
        x = means + draw.normal(size=(tasks, WAY, count, size, size, 1))
        y = np.tile(np.repeat(np.arange(WAY, dtype=np.int32), count), (tasks, 1))
        return {"x": x.reshape(tasks, WAY * count, size, size, 1).astype(np.float32), "y": y}

    return {"support": part(SHOT), "query": part(QUERY)}


def measure(inner_steps: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one number of inner steps: jtl, and each of torch's ways."""
    net = jtl.network(backbone=jtl.backbones.conv4(options.filters), head=jtl.heads.linear(WAY))
    objective = jtl.maml(jtl.finetune(net), jtl.fixed_rate(INNER_LR), steps=inner_steps, spread=options.spread)
    batch = episodes(options.tasks)
    variables = objective.init(jax.random.key(0), batch)
    tx = optax.adam(LR, b1=BETA)
    step = jtl.make_step(objective, tx, microbatch=options.tasks if options.spread == "scan" else 1)
    state = step.init(variables, jax.random.key(1))
    program = compiled(jax.jit(step.update, donate_argnums=0), state, batch)
    ways = {way: Torch(variables, batch, options.filters, inner_steps, way == "torch.func") for way in options.ways}
    state, metrics = program.run(state, batch)
    first = {"jtl": float(metrics["loss"])} | {way: float(twin.step()) for way, twin in ways.items()}
    apart = {way: _apart(optax.tree.get(state.opt, "mu"), twin.gradient()) for way, twin in ways.items()}
    for way in ways:
        np.testing.assert_allclose(first[way], first["jtl"], rtol=1e-4, err_msg=f"first loss of {way}")
        if not apart[way] < 1e-2:
            raise ValueError(f"the meta-gradient of {way} is off by {apart[way]:.2g} of its length: at most 0.01")
    runs: dict[str, Callable[[int], Any]] = {"jtl": chain(program.run, state, batch)}
    runs |= {way: twin.steps for way, twin in ways.items()}
    memory = {way: grown(run) for way, run in runs.items()}
    timing = interleaved(runs, pairs=options.pairs, seconds=options.seconds, rest=0.2)
    rows = []
    for way in runs:
        low, ratio, high = timing.ratio(way, "jtl")
        rows.append(
            {
                "inner_steps": inner_steps,
                "way": way,
                "tasks": options.tasks,
                "filters": options.filters,
                "fastest": min(timing.seconds[way]),
                "median": timing.median(way),
                "ratio": ratio,
                "ratio_of_fastest": min(timing.seconds[way]) / min(timing.seconds["jtl"]),
                "ratio_quartiles": [low, high],
                "aim": AIMS.get((way, inner_steps)),
                "grown_bytes": memory[way],
                "memory_bytes": program.memory_bytes if way == "jtl" else None,
                "compile_seconds": program.compile_seconds if way == "jtl" else None,
                "first_loss": first[way],
                "gradient_apart": apart.get(way),
                "seconds": timing.seconds[way],
            }
        )
    return rows


def _apart(moments: Any, theirs: dict[str, np.ndarray]) -> float:
    """The distance of the meta-gradients relative to the norm of torch's."""
    ours = {path.replace("/", "."): np.asarray(a) / (1 - BETA) for path, a in flatten(moments).items()}
    squared = length = 0.0
    for name, g in theirs.items():
        place = name.removesuffix(".weight")
        own = ours[next(path for path in (name, f"{place}.kernel", f"{place}.scale") if path in ours)]
        own = own.T if own.ndim == 2 else own.transpose(3, 2, 0, 1) if own.ndim == 4 else own
        squared += float(np.square(own - g).sum())
        length += float(np.square(g).sum())
    return (squared / length) ** 0.5


def grown(run: Callable[[int], Any]) -> int | None:
    """The peak growth of the process in one step, in bytes; None if the system does not report it."""
    resets = Path("/proc/self/clear_refs")
    if not resets.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed before must not hide what this step takes
    resets.write_text("5")
    before = _resident("VmRSS")
    run(1)
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main(argv: Sequence[str]) -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inner-steps", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--ways", nargs="+", choices=("loop", "torch.func"), default=["loop", "torch.func"])
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--spread", choices=("scan", "vmap"), default="scan", help="how jtl goes through the tasks")
    parser.add_argument("--pairs", type=int, default=7, help="samples of each")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a sample lasts at least")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "meta_against_torch-cpu.json")
    options = parser.parse_args(argv[1:])
    where = environment(argv) | {
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }
    rows: list[dict[str, Any]] = []
    for inner_steps in options.inner_steps:
        rows += measure(inner_steps, options)
        # Written after each number of steps, so that results before an error or an interrupt are kept.
        tables.write({"benchmark": "meta_against_torch", "environment": where, "rows": rows}, options.json)
        print(options.json.with_suffix(".md").read_text(), flush=True)


if __name__ == "__main__":
    main(sys.argv)

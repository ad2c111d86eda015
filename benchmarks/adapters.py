"""The cost of a training step of each adapter, next to full fine-tuning: FLOPs, parameters, optimizer state and memory.

    python benchmarks/adapters.py                          # ViT-Ti/16, 8 images of 224 pixels, AdamW
    python benchmarks/adapters.py --size S --batch 8

FLOPs are those that XLA counts in the compiled step; memory is the peak of the compiled program (arguments, results,
temporaries). The head is trained with every adapter. Steps of LoRA and of full fine-tuning are timed in turns. Weights
and images are random, because nothing here depends on them. Writes JSON, and a Markdown table made from it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import optax

import jtl
from benchmarks import tables
from benchmarks.measure import Program, chain, compiled, environment, interleaved
from jtl import backbones, heads, peft

ALONE = jtl.select("backbone/adapter/.*", "head/.*")
QUERY_VALUE, LINEAR = (r"block\d+/attention/(query|value)",), (r"block\d+/(attention|mlp)/\w+",)
TIMED = ("full", "LoRA 8, q and v")


class Case(NamedTuple):
    """A way to fine-tune: a change of the network, and which part of it is trained."""

    change: Callable[[jtl.Model, jtl.Variables], tuple[jtl.Model, jtl.Variables]]
    trainable: Any = ALONE


def attached(make: Callable[[int], peft.Adapter]) -> Case:
    """The case of an adapter that is made for a width."""

    def change(net: jtl.Model, variables: jtl.Variables) -> tuple[jtl.Model, jtl.Variables]:
        width = variables.params["backbone"]["norm"]["scale"].shape[0]
        return peft.attach(net, variables, make(width), jax.random.key(1))

    return Case(change)


def in_few_bits(net: jtl.Model, variables: jtl.Variables) -> tuple[jtl.Model, jtl.Variables]:
    """LoRA on a base in 4 bits."""
    lora = peft.attach(net, variables, peft.lora(8, QUERY_VALUE), jax.random.key(1))
    return peft.quantise(*lora, LINEAR, "nf4")


CASES = {
    "full": Case(lambda net, variables: (net, variables), jtl.select(".*")),
    "head": Case(lambda net, variables: (net, variables), jtl.select("head/.*")),
    "BitFit": Case(lambda net, variables: (net, variables), peft.bitfit("head/.*")),
    "LoRA 8, q and v": attached(lambda _: peft.lora(8, QUERY_VALUE)),
    "LoRA 8, all layers": attached(lambda _: peft.lora(8, LINEAR)),
    "LoRA 8, q and v, base in nf4": Case(in_few_bits),
    "DoRA 8, q and v": attached(lambda _: peft.lora(8, QUERY_VALUE, magnitude=True)),
    "IA3": attached(lambda _: peft.ia3((r".*/attention/(key|value)",), (r".*/mlp/down",))),
    "VeRA 256, q and v": attached(
        lambda width: peft.vera(QUERY_VALUE, peft.projections(jax.random.key(2), 256, width, width))
    ),
    "OFT 16, q and v": attached(lambda _: peft.oft(QUERY_VALUE, 16)),
    "SSF, all layers": attached(lambda _: peft.ssf(LINEAR)),
    "bottleneck 16, after both branches": attached(
        lambda width: peft.bottleneck((r"block\d+/(attention|mlp)",), width, 16)
    ),
    "AdaptFormer 16": attached(lambda width: peft.bottleneck((r"block\d+/mlp",), width, 16, parallel=True, scale=0.1)),
    "prefix 10": attached(lambda _: peft.prefix_tuning(10)),
    "VPT 10, deep": attached(lambda _: peft.vpt(10)),
    "VPT 10, shallow": attached(lambda _: peft.vpt(10, deep=False)),
}


def measured(
    case: Case, net: jtl.Model, variables: jtl.Variables, batch: dict[str, Any]
) -> tuple[dict[str, Any], Program, Any]:
    """Returns a row of the results, the compiled step and its initial state."""
    net, variables = case.change(net, variables)
    step = jtl.make_step(jtl.finetune(net), optax.adamw(1e-3), trainable=case.trainable)
    state = step.init(variables, jax.random.key(3))
    program = compiled(jax.jit(step), state, batch)
    learned = jtl.split(variables.params, case.trainable)[0]
    row = {
        "trained": sum(leaf.size for leaf in jax.tree.leaves(learned)),
        "parameters_bytes": _bytes(state.params),
        "optimizer_bytes": _bytes(state.opt),
        "flops": program.flops,
        "memory_bytes": program.memory_bytes,
        "compile_seconds": program.compile_seconds,
    }
    return row, program, state


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes"))


def main(given: list[str] | None = None) -> None:
    """Compiles every case, times two of them, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("Ti", "S", "B", "L"), default="Ti")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=7, help="samples of each step that is timed")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "adapters-cpu.json")
    asked = parser.parse_args(given)
    where, started = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    net = jtl.network(backbone=backbones.vit(asked.size, image=asked.image), head=heads.linear(10))
    batch = {"x": np.zeros((asked.batch, asked.image, asked.image, 3), np.float32), "y": np.arange(asked.batch) % 10}
    variables, batch = jax.jit(net.init)(jax.random.key(0), batch["x"]), jax.device_put(batch)
    rows, steps = [], {}
    for name, case in CASES.items():
        row, program, state = measured(case, net, variables, batch)
        rows.append({"method": name, **row})
        print(f"{name}: {row}", flush=True)
        if name in TIMED:
            steps[name] = chain(program.run, state, batch)
            steps[name](1)
    timing = interleaved(steps, pairs=asked.pairs, seconds=1.0)
    for row in rows:
        timed = row["method"] in TIMED
        row["time_ratio"] = timing.ratio(row["method"], "full") if timed else None
        row["seconds"] = timing.median(row["method"]) if timed else None
    results = {
        "benchmark": "adapters",
        "environment": where,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "rows": rows,
        "setting": {name: str(value) for name, value in vars(asked).items() if name != "json"},
    }
    tables.write(results, asked.json)


if __name__ == "__main__":
    main()

"""Compiles training steps for accelerators that are not at hand; nothing runs.

    python benchmarks/elsewhere.py tpu v5e:2x2                              # with libtpu installed
    JAX_PLATFORMS=cpu python benchmarks/elsewhere.py cuda h200.txtpb        # with jax's CUDA plugin, and ptxas
    JAX_PLATFORMS=cpu python benchmarks/elsewhere.py cuda h200.txtpb --fused --cases vit_b

A slice of TPUs is given by name; a GPU is described by a file from XLA's repository
(`xla/backends/gpu/target_config/specs`). The steps are those of `step_throughput.py`, in bfloat16 and data-parallel
over all devices. Memory is that of one device. Traffic is the number of bytes that the operations of a GPU's program
read and write: every array counts whenever an operation reads or writes it, even if a cache holds it. For a TPU, whose
program copies ahead of time, the number means nothing.
"""

import argparse
import collections
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import setups, tables
from benchmarks.measure import environment
from benchmarks.setups import NETWORKS, Cell
from jtl.pretrained.cost import flops
from jtl.train import mesh
from jtl.train.parallel.sharding import batch_sharding, state_sharding
from jtl.transform.fused_attention import fused_attention

CASES = {
    "resnet50": Cell("finetune", "resnet50", 128, 224),
    "convnext_t": Cell("finetune", "convnext_t", 128, 224),
    "vit_s": Cell("finetune", "vit_s", 128, 224),
    "vit_b": Cell("finetune", "vit_b", 128, 224),
    "bert_base": Cell("finetune", "bert_base", 128, 128),
    "minilm": Cell("finetune", "minilm", 512, 64),
    "wav2vec2_base": Cell("finetune", "wav2vec2_base", 32, 80000),
}
"""Batches are per device."""
COLLECTIVES = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
_BITS = {"pred": 8, "bf16": 16, **{f"{kind}{bits}": bits for kind in "suf" for bits in (8, 16, 32, 64)}}
_OPERATION = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def size(shape: str) -> int:
    """Bytes of an HLO shape, or of a tuple of them."""
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(_BITS[kind] // 8 * int(np.prod([int(n) for n in sides.split(",") if n])) for kind, sides in found)


def traffic(program: str) -> tuple[int, int]:
    """The bytes that the operations in an HLO program's entry read and write, and the number of these operations."""
    shapes, total, count = {}, 0, 0
    for line in program[program.index("\nENTRY ") :].splitlines():
        if operation := _OPERATION.match(line):
            name, shape, kind, operands = operation.groups()
            shapes[name] = shape
            if kind not in _FREE:
                total += size(shape) + sum(size(shapes[taken]) for taken in re.findall(r"%([\w.\-]+)", operands))
                count += 1
    return total, count


def row(name: str, cell: Cell, devices: Sequence[Any], fused: bool = False) -> dict[str, Any]:
    """The row of one step, compiled for a mesh of devices with `cell.batch` rows each."""
    network, where = NETWORKS[cell.backbone], mesh(devices=devices)
    with ExitStack() as pretended:
        if fused:
            kernel = network._replace(make=lambda size: fused_attention(network.make(size)))
            pretended.enter_context(mock.patch.dict(setups.NETWORKS, {cell.backbone: kernel}))
        setup = setups.build(cell)
        state = jax.eval_shape(setup.step.init, setup.variables, jax.random.key(1))
        batch = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((len(devices) * len(a), *a.shape[1:]), a.dtype), setup.batch
        )
        if fused:  # jax would ask the local GPU and cuDNN
            check = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
            pretended.enter_context(mock.patch(check, return_value=91000))
            pretended.enter_context(mock.patch.object(jax, "default_backend", return_value="gpu"))
        placed, whole = state_sharding(state, where), NamedSharding(where, PartitionSpec())
        run = jax.jit(
            setup.step.update,
            in_shardings=(placed, batch_sharding(where)),
            out_shardings=(placed, whole),
            donate_argnums=0,
        )
        program: Any = run.lower(state, batch).compile()
    text, memory = program.as_text(), program.memory_analysis()
    moved, operations = traffic(text)
    asked = re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", text)
    return {
        "network": name,
        **cell._asdict(),
        "devices": len(devices),
        "fused_attention": fused,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "traffic_bytes": None if devices[0].platform == "tpu" else moved,
        "operations": operations,
        "collectives": dict(collections.Counter(asked)),
        "model_flops": 3 * flops(network.make(cell.size), jax.eval_shape(lambda: setup.batch["x"])),
    }


def main(argv: list[str]) -> None:
    """Compiles the requested cases and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("platform", choices=("tpu", "cuda"))
    parser.add_argument("target", help="a slice's name, or a file that describes a GPU")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--fused", action="store_true", help="attention by jtl.fused_attention")
    parser.add_argument("--json", type=Path, help="by default benchmarks/results/elsewhere-TARGET.json")
    options = parser.parse_args(argv[1:])
    short = re.sub(r"\W+", "-", Path(options.target).stem)
    if options.platform == "tpu":
        found = topologies.get_topology_desc(options.target, platform="tpu")
    else:
        described = Path(options.target).read_text()
        found = topologies.get_topology_desc(platform="cuda", target_config=described, topology="1x1x1")
    where = environment(argv) | {"target": found.devices[0].device_kind}
    path = options.json or ROOT / "benchmarks" / "results" / f"elsewhere-{short}{'-fused' * options.fused}.json"
    rows = []
    for name in options.cases:
        rows.append(row(name, CASES[name]._replace(dtype="bfloat16"), found.devices, options.fused))
        tables.write({"benchmark": "elsewhere", "environment": where, "rows": rows}, path)
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main(sys.argv)

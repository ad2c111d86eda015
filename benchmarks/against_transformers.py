"""jtl against transformers: published networks at full size, written by transformers and read by `jtl.load`.

    python benchmarks/against_transformers.py                             # seven networks, forward and train step
    python benchmarks/against_transformers.py --cases vit_b --pairs 15
    python benchmarks/against_transformers.py --devices 2                 # forward passes by a device per core, too
    python benchmarks/against_transformers.py --dtype bfloat16 --compile --fused  # on a GPU

Weights are random and the same on both sides; it stops with an error if the first losses differ. Forward passes are in
evaluation mode; a train step is cross-entropy and AdamW without dropout. The ratio is torch's time over jtl's, the
median of the samples' ratios: above 1, jtl is faster. With `--devices N` a forward pass is also timed with its batch
split over a mesh of N CPU devices, which synchronise once per pass instead of at every operation. Writes JSON, and a
Markdown table made from it.
"""

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory on the same GPU

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import tables
from benchmarks.measure import Program, chain, compiled, environment, interleaved, on_gpu, peak_flops
from benchmarks.setups import optimizer
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.networks import network
from jtl.pretrained.cost import flops
from jtl.pretrained.load import load
from jtl.train import jit_step, make_step, mesh, put_batch
from jtl.transform.fused_attention import fused_attention

LR = 1e-5
CLASSES = 10
STILL: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SILENT = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")


class Case(NamedTuple):
    """One network.

    Args:
      kind: prefix of transformers' class names, before `Config` and in the class with a head.
      task: the task of that head.
      measures: entries of the config that differ from the library's defaults.
      inputs: `inputs(rng, batch)` returns the same inputs for jtl and for torch.
      batch: rows of a batch on two cores, and on a GPU.
      aims: target ratios on a CPU, forward and training.
    """

    kind: str
    task: str
    measures: dict[str, Any]
    inputs: Callable[[np.random.Generator, int], tuple[Any, dict[str, Any]]]
    batch: tuple[int, int]
    aims: tuple[float, float]


def _images(rng: np.random.Generator, batch: int) -> tuple[Any, dict[str, Any]]:
    x = rng.normal(size=(batch, 224, 224, 3)).astype(np.float32)
    return x, {"pixel_values": x.transpose(0, 3, 1, 2).copy()}


def _texts(tokens: int) -> Callable:
    def inputs(rng: np.random.Generator, batch: int) -> tuple[Any, dict[str, Any]]:
        ids, mask = rng.integers(1000, 30000, (batch, tokens)).astype(np.int32), np.ones((batch, tokens), bool)
        return {"ids": ids, "mask": mask}, {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}

    return inputs


def _waves(rng: np.random.Generator, batch: int) -> tuple[Any, dict[str, Any]]:
    wave = rng.normal(size=(batch, 2 * 16000)).astype(np.float32)
    mask = np.ones(wave.shape, bool)
    return {"wave": wave, "mask": mask}, {"input_values": wave, "attention_mask": mask.astype(np.int64)}


def _vit(width: int, heads: int) -> dict[str, Any]:
    return {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width, **STILL}


_MINI = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_SOUND = {**dict.fromkeys(SILENT, 0.0), "layerdrop": 0.0, "mask_time_prob": 0.0}
_IMAGE, _TEXT = "ImageClassification", "SequenceClassification"
CONVOLUTIONAL = ("ResNet", "ConvNext")
CASES = {
    "resnet50": Case("ResNet", _IMAGE, {}, _images, (4, 256), (1.0, 0.8)),
    "convnext_t": Case("ConvNext", _IMAGE, {}, _images, (4, 256), (1.0, 0.8)),
    "vit_s": Case("ViT", _IMAGE, _vit(384, 6), _images, (4, 256), (1.0, 1.0)),
    "vit_b": Case("ViT", _IMAGE, _vit(768, 12), _images, (2, 128), (1.0, 1.0)),
    "bert_base": Case("Bert", _TEXT, STILL, _texts(128), (4, 128), (1.0, 1.0)),
    "minilm": Case("Bert", _TEXT, {**_MINI, **STILL}, _texts(64), (16, 512), (1.0, 1.0)),
    "wav2vec2_base": Case("Wav2Vec2", _TEXT, _SOUND, _waves, (2, 64), (1.0, 1.0)),
}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns one row: both sides' seconds per forward pass and per train step."""
    transformers: Any = importlib.import_module("transformers")  # so that pyright does not read all of it
    case, device = CASES[name], "cuda" if on_gpu() else "cpu"
    batch = options.batch or case.batch[on_gpu()]
    rng = np.random.default_rng(0)
    x, given = case.inputs(rng, batch)
    y = rng.integers(CLASSES, size=batch).astype(np.int32)
    torch.manual_seed(0)
    config = getattr(transformers, f"{case.kind}Config")(num_labels=CLASSES, **case.measures)
    net = getattr(transformers, f"{case.kind}For{case.task}")(config)
    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder)
        loaded = load(folder)
    fused = options.fused and case.kind not in CONVOLUTIONAL
    backbone = fused_attention(loaded.backbone) if fused else loaded.backbone
    ours = network(backbone=backbone, head=loaded.head)
    given = {word: torch.as_tensor(value, device=device) for word, value in given.items()}
    twin = Twin(net.to(device), given, torch.as_tensor(y, device=device).long(), options)

    dtype = None if options.dtype == "float32" else jnp.dtype(options.dtype)
    predict = predictor(ours)
    weights = _cast(loaded.variables, dtype)
    forward, passes = _forward(predict, weights, x, 1)
    step = make_step(finetune(ours), optimizer(LR), dtype=dtype)
    where = mesh(devices=jax.devices()[:1])
    run, state = jit_step(step, step.init(loaded.variables, jax.random.key(1)), where)
    data = put_batch({"x": x, "y": y}, where)
    train = compiled(run, state, data)
    steps = chain(train.run, state, data)

    tolerance = 1e-3 if dtype is None else 5e-2
    np.testing.assert_allclose(float(steps(1)["loss"]), twin.train(1), rtol=tolerance, err_msg=f"{name}: first loss")
    both = {"jtl": passes, "torch": twin.forward}, {"jtl": steps, "torch": twin.train}
    if options.devices > 1:
        both[0]["cut"] = _forward(predict, weights, x, options.devices)[1]
    for sides in both:
        for side in sides.values():
            side(1)
    timings = [interleaved(sides, pairs=options.pairs, seconds=options.seconds, rest=0.2) for sides in both]
    peak = peak_flops() if dtype is not None else None
    products = flops(loaded.backbone, jax.eval_shape(lambda: x))
    row: dict[str, Any] = {"network": name, "batch": batch, "dtype": options.dtype, "fused_attention": fused}
    parts = zip(("forward", "train"), timings, (forward, train), case.aims, (1, 3), strict=True)
    for part, timing, program, aim, passes_over in parts:
        low, ratio, high = timing.ratio("torch", "jtl")
        row[part] = {
            "ratio": ratio,
            "ratio_quartiles": [low, high],
            "aim": None if on_gpu() else aim,
            "seconds": {side: timing.median(side) for side in timing.seconds},
            "samples": timing.seconds,
            "flops": program.flops,
            "compile_seconds": program.compile_seconds,
            "model_flops": passes_over * products,
            "mfu": None if peak is None else passes_over * products / timing.median("jtl") / peak,
        }
    if options.devices > 1:
        low, ratio, high = timings[0].ratio("torch", "cut")
        row["forward"] |= {"devices": options.devices, "cut_ratio": ratio, "cut_ratio_quartiles": [low, high]}
    return row


def _forward(predict: Callable, weights: Any, x: Any, devices: int) -> tuple[Program, Callable[[int], None]]:
    """Returns a compiled forward pass on that many devices, and a function that runs n of them and waits for each."""
    where = mesh(devices=jax.devices()[:devices])
    held = jax.device_put(weights, NamedSharding(where, PartitionSpec())), put_batch({"x": x}, where)["x"]
    program = compiled(jax.jit(predict), *held)

    def passes(n: int) -> None:
        for _ in range(n):
            jax.block_until_ready(program.run(*held))

    return program, passes


class Twin:
    """The torch side: the same network, weights and batch."""

    def __init__(self, net: Any, given: dict[str, Any], y: torch.Tensor, options: argparse.Namespace):
        self.net, self.given, self.y = net, given, y
        self.half = options.dtype == "bfloat16"
        self.run = torch.compile(net) if options.compile else net
        self.tx = torch.optim.AdamW(
            net.parameters(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, fused=True
        )

    def forward(self, n: int) -> float:
        """Runs `n` passes in evaluation mode; waits for the last."""
        self.net.eval()
        found = torch.zeros(())
        with torch.inference_mode(), self._mixed():
            for _ in range(n):
                found = self.run(**self.given).logits.float().sum()
        return float(found)

    def train(self, n: int) -> float:
        """Takes `n` steps; returns the loss before the last one."""
        self.net.train()
        loss = torch.zeros(())
        for _ in range(n):
            self.tx.zero_grad(set_to_none=True)
            with self._mixed():
                loss = self.run(**self.given, labels=self.y).loss
            loss.backward()
            self.tx.step()
        return float(loss.detach())

    def _mixed(self) -> Any:
        return torch.autocast(self.y.device.type, torch.bfloat16, enabled=self.half)


def _cast(tree: Any, dtype: Any) -> Any:
    return tree if dtype is None else tree._replace(params=jax.tree.map(lambda a: a.astype(dtype), tree.params))


def main(argv: Sequence[str]) -> None:
    """Measures the requested cases and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, help="rows of a batch")
    parser.add_argument(
        "--devices", type=int, default=1, help="CPU devices that a forward pass is cut over, beside one"
    )
    parser.add_argument("--pairs", type=int, default=7, help="samples of each side")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a sample lasts at least")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--json", type=Path, help="by default benchmarks/results/against_transformers-BACKEND.json")
    parser.add_argument("--fused", action="store_true", help="jtl's attention by cuDNN, on a GPU in bfloat16")
    options = parser.parse_args(argv[1:])
    if options.devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.fused and not (on_gpu() and options.dtype == "bfloat16"):
        parser.error("--fused: cuDNN's attention takes --dtype bfloat16, on a GPU")
    torch.set_float32_matmul_precision("high")  # as jax multiplies float32 on a GPU; no difference on a CPU
    where = environment(argv) | {"torch": torch.__version__, "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY")}
    path = options.json or ROOT / "benchmarks" / "results" / f"against_transformers-{where['backend']}.json"
    rows = []
    for name in options.cases:
        rows.append(measure(name, options))
        # Written after every case, so that results before an error or an interrupt are kept.
        tables.write({"benchmark": "against_transformers", "environment": where, "rows": rows}, path)
        ratios = {part: f"{rows[-1][part]['ratio']:.2f}" for part in ("forward", "train")}
        print(f"{name}: {ratios}", flush=True)


if __name__ == "__main__":
    main(sys.argv)

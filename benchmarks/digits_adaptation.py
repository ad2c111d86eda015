"""Adaptation between MNIST, USPS and MNIST-M without target labels: each method's accuracy beside the source alone.

    python benchmarks/digits_adaptation.py               # 16x16 pixels, 500 steps, 5 seeds
    python benchmarks/digits_adaptation.py --minutes 10  # stops after; the next call goes on

Real data from `JTL_DATA`: the first 10,000 training and 2,000 test images of each set, those of one channel as they
are and MNIST in three channels beside MNIST-M. The network is four blocks of 32 filters. Weights of the alignments
are the library's defaults, and all methods share one learning rate. Every run is scored without labels, by all scores
of `adaptation_runs.py`, on 1,000 unlabelled training images of the target and as many of the source that no method
learns from. ONE score then chooses the checkpoint of each run, and the method on the pair `--held-out`: the one with
the highest mean of Spearman's correlations with the test accuracy on the OTHER pairs, over methods at their last step.
Beside it stand the last step, and the best checkpoint by the target's test labels (ORACLE). The baseline is `finetune`
on the source, so that no row of the target enters its BatchNorm. SHOT and AdaBN begin with its last step; SHOT then
takes half as many steps. Writes JSON, and Markdown tables made from it.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

import jtl
from benchmarks import tables
from benchmarks.adaptation_runs import VALIDATOR, Domains, Runs, Setting, correlations, resumed
from benchmarks.measure import environment
from jtl.preprocess import pixels
from jtl.recipes.parts import base

SIDE, TRAIN, TEST = 16, 10_000, 2_000
METHODS = (
    "source", "shot", "im", "bnm", "mcc", "cdan_e", "dann", "mmd", "ada_bn", "coral", "afn", "mcd", "jmmd",
)  # fmt: skip


def mnist(split: str, count: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of MNIST, resized."""
    data = jtl.data.tfds("mnist", split, base.find(None, "tfds"), batch_size=count, shuffle=False)[0]
    x = np.stack([pixels.resize(np.asarray(image).reshape(28, 28, 1), (SIDE, SIDE)) for image in data["x"]])
    return scaled(np.repeat(x, channels, -1)), np.asarray(data["y"])


def stored(file: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of USPS or MNIST-M, resized."""
    found = np.load(base.find(None, file))
    x = found[f"x_{split}"][:count]
    x = x[..., None] if x.ndim == 3 else x
    x = x if x.shape[1] == SIDE else np.stack([pixels.resize(image, (SIDE, SIDE)) for image in x])
    return scaled(x), found[f"y_{split}"][:count].astype(np.int32)


def scaled(x: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1]."""
    return x.astype(np.float32) / 127.5 - 1


PAIRS = {
    "USPS to MNIST": lambda: Domains(
        stored("usps.npz", "train", TRAIN),
        mnist("train", TRAIN, 1),
        mnist("test", TEST, 1),
        stored("usps.npz", "test", TEST),
    ),
    "MNIST to USPS": lambda: Domains(
        mnist("train", TRAIN, 1),
        stored("usps.npz", "train", TRAIN),
        stored("usps.npz", "test", TEST),
        mnist("test", TEST, 1),
    ),
    "MNIST to MNIST-M": lambda: Domains(
        mnist("train", TRAIN, 3),
        stored("mnist_m.npz", "train", TRAIN),
        stored("mnist_m.npz", "test", TEST),
        mnist("test", TEST, 3),
    ),
}


def network() -> jtl.Model:
    """Four blocks, and a linear head on the last map."""
    return jtl.network(backbone=jtl.backbones.conv4(32, flatten=True, conv="lax"), head=jtl.heads.linear(10))


def main(given: list[str] | None = None) -> None:
    """Runs all methods and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32, help="images of each domain in a step")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="'source' first")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS))
    parser.add_argument("--held-out", default="USPS to MNIST", help="the pair that chooses no score")
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun after so many")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "digits_adaptation-cpu.json")
    asked = parser.parse_args(given)
    where, began = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    setting = Setting(asked.steps, asked.steps // 5, asked.batch, 1e-3, 1_000, 0.1)
    pairs = {name: PAIRS[name] for name in asked.pairs}
    net, record = network(), asked.json.with_suffix(".partial.jsonl")
    rows = resumed(
        lambda shape: Runs(net, 10, setting), pairs, tuple(asked.methods), asked.seeds, record, asked.minutes
    )
    results = {
        "benchmark": "adaptation",
        "environment": where,
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
        "validator": VALIDATOR,
        "rows": [{**row, "validator": VALIDATOR} for row in rows],
        "setting": {"side": SIDE, **setting._asdict()},
    }
    tables.write(results, asked.json)
    if len(asked.pairs) > 1:
        found = correlations(rows, asked.held_out)
        best = max(found, key=lambda row: sum(row["correlations"].values()))["score"]
        if best != VALIDATOR:
            print(f"of these runs {best} is the score with the highest correlation, and {VALIDATOR} chose")
        path = asked.json.with_name(asked.json.name.replace("adaptation", "validators"))
        tables.write({**results, "benchmark": "validators", "rows": found}, path)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

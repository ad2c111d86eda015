"""Adaptation between MNIST, USPS and MNIST-M without target labels: each method's accuracy against the source alone.

    python benchmarks/digits_adaptation.py               # 16x16 pixels, 500 steps, 5 seeds
    python benchmarks/digits_adaptation.py --minutes 10  # stops after; the next call continues
    python benchmarks/digits_adaptation.py --network lenet

Real data from `JTL_DATA`: the first 10,000 training and 2,000 test images of each set, with one channel, or with three
in pairs with MNIST-M. The network is four blocks of 32 filters; with `--network lenet` it is SHOT's LeNet of
`shot_digits.py`, and the images have 28x28 pixels, or 32x32 in pairs with MNIST-M, with USPS's digits over the whole
picture (SKADA-Bench adds a border: `skada_digits.py`). Weights of the alignments are the library's defaults, and all
methods share one learning rate. Every run is scored without labels, by all scores of `adaptation_runs.py`, on 1,000
unlabelled training images of the target and as many of the source that no method learns from. ONE score then chooses
the checkpoint of each run, and the method on the pair `--held-out`: the score with the highest mean of Spearman's
correlations with the test accuracy on the OTHER pairs, over methods at their last step. It is compared with the last
step, and with the best checkpoint by the target's test labels (ORACLE); `oracle` learns from the target's labels
instead of the source's. The baseline is `finetune` on the source, so no row of the target enters its BatchNorm. SHOT
and AdaBN start from its last step; SHOT then takes half as many steps. Writes JSON, and Markdown tables made from it.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

import jtl
from benchmarks import shot_digits, tables
from benchmarks.adaptation_runs import VALIDATOR, Domains, Runs, Setting, correlations, resumed
from benchmarks.measure import environment
from jtl.preprocess import pixels
from jtl.recipes.parts import base

TRAIN, TEST = 10_000, 2_000
METHODS = (
    "source", "shot", "im", "bnm", "mcc", "cdan_e", "dann", "mmd", "ada_bn", "coral", "afn", "mcd", "jmmd", "oracle",
)  # fmt: skip


class Digits(NamedTuple):
    """A network and its inputs.

    Args:
      network: makes it.
      sides: sides in pixels of images with one channel and with three.
      low: the value of black; white is 1.
    """

    network: Callable[[], jtl.Model]
    sides: tuple[int, int]
    low: float

    def mnist(self, split: str, count: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """The first images of MNIST, resized."""
        data = jtl.data.tfds("mnist", split, base.find(None, "tfds"), batch_size=count, shuffle=False)[0]
        x = self._scaled([np.asarray(image).reshape(28, 28, 1) for image in data["x"]], channels)
        return np.repeat(x, channels, -1), np.asarray(data["y"])

    def stored(self, file: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first images of USPS or MNIST-M, resized."""
        found = np.load(base.find(None, file))
        x = found[f"x_{split}"][:count]
        x = self._scaled(x[..., None] if x.ndim == 3 else x, 1 if x.ndim == 3 else 3)
        return x, found[f"y_{split}"][:count].astype(np.int32)

    def _scaled(self, images: Any, channels: int) -> np.ndarray:
        side = self.sides[channels == 3]
        x = np.stack([image if len(image) == side else pixels.resize(image, (side, side)) for image in images])
        return x.astype(np.float32) / 255 * (1 - self.low) + self.low

    def between(self, source: str, target: str) -> Domains:
        """A pair of domains; the held-out rows of the source are those of its test set."""
        channels = 3 if target == "mnist_m" else 1

        def of(name: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
            return self.mnist(split, count, channels) if name == "mnist" else self.stored(f"{name}.npz", split, count)

        return Domains(
            of(source, "train", TRAIN), of(target, "train", TRAIN), of(target, "test", TEST), of(source, "test", TEST)
        )


def blocks() -> jtl.Model:
    """A network of four blocks, and a linear head on the last map."""
    return jtl.network(backbone=jtl.backbones.conv4(32, flatten=True, conv="lax"), head=jtl.heads.linear(10))


NETWORKS = {"blocks": Digits(blocks, (16, 16), -1.0), "lenet": Digits(shot_digits.network, (28, 32), 0.0)}
PAIRS = {
    "USPS to MNIST": ("usps", "mnist"),
    "MNIST to USPS": ("mnist", "usps"),
    "MNIST to MNIST-M": ("mnist", "mnist_m"),
}


def main(given: list[str] | None = None) -> None:
    """Runs all methods and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="blocks")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32, help="images of each domain in a step")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="'source' first")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS))
    parser.add_argument("--held-out", default="USPS to MNIST", help="the pair that chooses no score")
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun after so many")
    parser.add_argument("--json", type=Path, help="a file of `benchmarks/results` unless said")
    asked = parser.parse_args(given)
    if asked.methods[0] != "source":
        parser.error(f"--methods {' '.join(asked.methods)}: 'source' comes first, the others are compared with it")
    name = "digits_adaptation" if asked.network == "blocks" else f"digits_{asked.network}_adaptation"
    path = asked.json or ROOT / "benchmarks" / "results" / f"{name}-cpu.json"
    where, began = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    setting = Setting(asked.steps, asked.steps // 5, asked.batch, 1e-3, 1_000, 0.1)
    digits = NETWORKS[asked.network]
    pairs = {name: functools.partial(digits.between, *PAIRS[name]) for name in asked.pairs}
    net, record = digits.network(), path.with_suffix(".partial.jsonl")
    rows = resumed(
        lambda shape: Runs(net, 10, setting), pairs, tuple(asked.methods), asked.seeds, record, asked.minutes
    )
    results = {
        "benchmark": "adaptation",
        "environment": where,
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
        "validator": VALIDATOR,
        "rows": [{**row, "validator": VALIDATOR} for row in rows],
        "setting": {"network": asked.network, "sides": digits.sides, **setting._asdict()},
    }
    tables.write(results, path)
    if len(asked.pairs) > 1:
        found = correlations(rows, asked.held_out)
        best = max(found, key=lambda row: sum(row["correlations"].values()))["score"]
        if best != VALIDATOR:
            print(f"of these runs {best} is the score with the highest correlation, and {VALIDATOR} chose")
        beside = path.with_name(path.name.replace("adaptation", "validators"))
        tables.write({**results, "benchmark": "validators", "rows": found}, beside)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

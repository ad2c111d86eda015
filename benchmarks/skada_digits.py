"""Adaptation between MNIST and USPS by the protocol of SKADA-Bench: its network, images, optimizer and schedule.

    python benchmarks/skada_digits.py --source usps
    python benchmarks/skada_digits.py --source usps --epochs 5   # of 187 steps, where the source alone has 22
    python benchmarks/skada_digits.py --source usps --minutes 10 # stops after; the next call goes on

Real data from `JTL_DATA`: the 60,000 training images of MNIST and the 7,291 of USPS, a fifth of each held out for
tests by a random split. Images of USPS get a border of 6 pixels, so that all have 28x28, and each set is normalised by
the mean and standard deviation that SKADA-Bench takes. The network is that of PyTorch's example of MNIST: two 3x3
convolutions, and a layer of 128 features between dropouts. SGD with a rate of 0.1, a momentum of 0.6 and a weight decay
of 1e-5, 10 epochs, batches of 256 images of each domain. An epoch is one of the larger domain, and of the source for
the source alone (Lalou et al., 2024, arXiv:2407.11676; its release 1.0.0 and skada 0.4).

What differs: the weights of the alignments are the library's defaults, where SKADA-Bench searches them by a score; the
checkpoint is chosen by the score `adaptation_runs.VALIDATOR`, without labels of the target. The rate is constant, so
fewer `--epochs` are the beginning of the whole run. Results of earlier calls are kept, and the tables have them too.
Writes JSON, and Markdown tables made from it.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import flax.linen as nn
import numpy as np
import optax

import jtl
from benchmarks import shot_digits, tables
from benchmarks.adaptation_runs import VALIDATOR, Domains, Runs, Setting, resumed
from benchmarks.measure import environment
from jtl.nn.layers import Conv
from jtl.nn.pooling import max_pool
from jtl.recipes.parts import base

BATCH, EPOCHS, RATE, MOMENTUM, DECAY = 256, 10, 0.1, 0.6, 1e-5
MOMENTS = {"mnist": (0.1307, 0.3081), "usps": (0.0806, 0.2063)}
"""SKADA-Bench's mean and standard deviation of pixels in [0, 1]."""
METHODS = ("source", "mcc", "dann", "coral", "mmd", "cdan_e", "oracle")


class _Convolutions(nn.Module):
    """The network of PyTorch's MNIST example, up to its 128 features."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        for i, features in enumerate((32, 64)):
            patches = i > 0  # a fifth less time on a CPU, except with one channel
            x = nn.relu(Conv(features, 3, padding=0, bias=True, patches=patches, name=f"conv{i + 1}")(x))
        x = nn.Dropout(0.25, deterministic=not train)(max_pool(x)).reshape(len(x), -1)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(128, name="dense")(x)))
        return {"pooled": x}


def network() -> jtl.Model:
    """SKADA-Bench's network of digits."""
    return jtl.network(backbone=jtl.from_linen(_Convolutions()), head=jtl.heads.linear(10))


def images(name: str, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The training images of a set, float32 [rows, 28, 28, 1], and their labels."""
    if name == "mnist":
        count = min(rows or 60_000, 60_000)
        data = jtl.data.tfds("mnist", "train", base.find(None, "tfds"), batch_size=count, shuffle=False)[0]
        x, y = np.asarray(data["x"]).reshape(-1, 28, 28, 1), np.asarray(data["y"])
    else:
        kept = np.load(base.find(None, "usps.npz"))
        x, y = np.pad(kept["x_train"], ((0, 0), (6, 6), (6, 6)))[..., None], kept["y_train"]
    mean, deviation = MOMENTS[name]
    x = shot_digits.scaled(x[:rows])
    return (x - np.float32(mean)) / np.float32(deviation), y[:rows].astype(np.int32)


def domains(source: str, target: str, rows: int | None = None) -> Domains:
    """Four fifths of each set for training, the rest for the test and, of the source, for scores that read it."""

    def halves(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
        x, y = images(name, rows)
        at = np.random.default_rng(0).permutation(len(x))
        return [(x[part], y[part]) for part in np.split(at, [4 * len(x) // 5])]

    (here, held), (there, test) = halves(source), halves(target)
    return Domains(here, there, test, held)


def optimizer() -> optax.GradientTransformation:
    """SGD whose weight decay is part of the gradient, as torch has it."""
    return optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, momentum=MOMENTUM))


def main(given: list[str] | None = None) -> None:
    """Runs the methods from one source, and writes all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=sorted(MOMENTS), required=True)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the larger domain; of the source for it alone")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="'source' first")
    parser.add_argument("--rows", type=int, help="of each set at most, for a trial")
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun after so many")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "skada_digits-cpu.json")
    asked = parser.parse_args(given)
    if asked.methods[0] != "source":
        parser.error(f"--methods {' '.join(asked.methods)}: 'source' comes first, the others are compared with it")
    where = environment(sys.argv if given is None else [__file__, *given])
    target = "usps" if asked.source == "mnist" else "mnist"
    load = functools.cache(functools.partial(domains, asked.source, target, asked.rows))
    rows, record = [], asked.json.with_suffix(".partial.jsonl")
    pair = f"{asked.source} to {target}, {asked.epochs} of {EPOCHS} epochs".replace("mnist", "MNIST")
    for methods in (("source",), tuple(asked.methods)):  # the source alone has shorter epochs
        sizes = [len(load().source[0])] + ([len(load().target[0])] if len(methods) > 1 else [])
        steps = asked.epochs * (max(sizes) // BATCH)
        setting = Setting(steps, steps // 5, BATCH, RATE, 1_000, 0.1)
        rows = resumed(
            lambda shape, setting=setting: Runs(network(), 10, setting, optimizer()),
            {pair.replace("usps", "USPS"): load},
            methods,
            asked.seeds,
            record,
            asked.minutes,
        )
    results = {
        "benchmark": "adaptation",
        "environment": where,
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
        "validator": VALIDATOR,
        "rows": [{**row, "validator": VALIDATOR} for row in rows],
        "setting": {"batch": BATCH, "rate": RATE, "momentum": MOMENTUM, "decay": DECAY},
    }
    tables.write(results, asked.json)


if __name__ == "__main__":
    main()

"""Do transferability scores order networks as probes do? Kendall's tau of both orders on parts of CIFAR-100.

    python benchmarks/ranking.py                          # 7 networks, 10 data sets of 10 classes
    python benchmarks/ranking.py --networks resnet20 resnet32 random_resnet20 --images 10

Networks: ResNet-20, 32, 44 and 56 with their published CIFAR-10 weights, ResNet-20 and 56 with random weights, and
MobileNetV2 with ImageNet's on images of 64 pixels. The hundred classes are cut into ten data sets, each with 20 images
(`--images`) a class to score and to train on, and as many test images. The order to predict is that of the test
accuracy of a ridge classifier on standardised features, whose penalty is chosen on half of the training images.
MobileNetV2's file has no classifier, so NCE and LEEP order the others. `--cache FOLDER` keeps features, so that a
killed run resumes. Real data from `JTL_DATA`. Writes JSON, and a Markdown table.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
from scipy.stats import kendalltau

import jtl
from benchmarks import tables
from benchmarks.measure import environment
from jtl import finetuning
from jtl.methods.finetune.cache import compiled
from jtl.recipes.parts import base
from jtl.selection.ranking import scores

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
NETWORKS = ("resnet20", "resnet32", "resnet44", "resnet56", "random_resnet20", "random_resnet56", "mobilenet_v2")


def networks(pixels: np.ndarray, wanted: list[str], cache: Path | None) -> Any:
    """Name, features [images, width] and logits or None of each network."""
    normal = jtl.data.augment.normalise(MEAN, STD)
    batches = [pixels[i : i + 200] for i in range(0, len(pixels), 200)]
    for called in wanted:
        if called == "mobilenet_v2":
            file = base.find(None, "mobilenet_v2/mobilenet_v2_features.safetensors")
            known = jtl.load(file, arch=called, classes=10, reinit=("head/.*",), key=jax.random.key(0))
            net = jtl.preprocessed(known.network, lambda key, x: normal(key, x.repeat(2, 1).repeat(2, 2)))
        else:
            name = called.removeprefix("random_")
            (file,) = base.find(None, "cifar_resnet").glob(f"{name}-*.th")
            known = jtl.load(file, arch=f"cifar_{name}")
            net = jtl.preprocessed(known.network, normal)
        variables = known.variables
        if called.startswith("random_"):
            variables = known.network.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))

        def run(variables: Any, x: Any, net: Any = net) -> Any:
            out = net.apply(variables, x, train=False)[0]
            return out.read, out.output

        of = compiled(run, variables, cache)
        features, logits = (np.concatenate(part) for part in zip(*map(of, batches), strict=True))
        yield called, features, None if called == "mobilenet_v2" else logits


def probe(f: np.ndarray, y: np.ndarray, test: np.ndarray, y_test: np.ndarray) -> float:
    """Test accuracy of a ridge classifier."""
    mean, std = f.mean(0)[None], f.std(0)[None] + 1e-6
    f, test, half = (f - mean) / std, (test - mean) / std, np.arange(len(y)) % 2 == 0
    target = 2 * np.eye(10, dtype=np.float32)[y] - 1

    def right(train: np.ndarray, penalty: float, x: np.ndarray, y: np.ndarray) -> float:
        fitted = finetuning.ridge(f[train], target[train], penalty)
        return float((np.asarray(fitted(x)).argmax(1) == y).mean())

    best = max(PENALTIES, key=lambda p: right(half, p, f[~half], y[~half]))
    return right(np.ones(len(y), bool), best, test, y_test)


def tau(score: list[float], accuracy: list[float]) -> float:
    """Kendall's tau-b."""
    found: Any = kendalltau(score, accuracy)
    return float(found.statistic)


def main(given: list[str] | None = None) -> None:
    """Scores and probes all networks on all data sets, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "ranking-cpu.json")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=20, help="of a class, to train on and to test on")
    parser.add_argument("--cache", type=Path, help="a folder that keeps features")
    asked = parser.parse_args(given)
    where, started = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    many = asked.images
    files, draw = np.load(base.find(None, "cifar100.npz")), np.random.default_rng(0)
    index = {
        split: np.stack([draw.permutation(np.flatnonzero(files[f"y_{split}"] == c))[:count] for c in range(100)])
        for split, count in (("train", many), ("test", many))
    }
    pixels = np.concatenate([files[f"x_{split}"][rows.reshape(-1)] for split, rows in index.items()])
    groups = draw.permutation(100).reshape(10, 10)
    y, y_test = np.repeat(np.arange(10), many), np.repeat(np.arange(10), many)
    rows = []
    for name, features, logits in networks(pixels, asked.networks, asked.cache):
        for number, group in enumerate(groups):
            train = (group[:, None] * many + np.arange(many)[None]).reshape(-1)
            test = 100 * many + (group[:, None] * many + np.arange(many)[None]).reshape(-1)
            shares = None if logits is None else np.asarray(jax.nn.softmax(logits[train]))
            found = scores(features[train], y, shares)
            accuracy = probe(features[train], y, features[test], y_test)
            rows.append({"network": name, "data": number, "accuracy": accuracy, **found._asdict()})
        print(name, np.mean([row["accuracy"] for row in rows if row["network"] == name]), flush=True)
    summary = []
    for score in ("logme", "h_score", "transrate", "nce", "leep"):
        there = [row for row in rows if row[score] is not None]
        of = [[row for row in there if row["data"] == number] for number in range(10)]
        taus = [tau([r[score] for r in part], [r["accuracy"] for r in part]) for part in of]
        best = [max(p, key=lambda r: r[score])["accuracy"] - max(r["accuracy"] for r in p) for p in of]
        summary.append({"score": score, "networks": len(of[0]), "taus": taus, "lost": best})
    results = {
        "benchmark": "ranking",
        "environment": where,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "rows": summary,
        "measured": rows,
    }
    tables.write(results, asked.json)


if __name__ == "__main__":
    main()

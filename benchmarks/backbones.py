"""What every backbone weighs and costs, and what published weights reach here.

    JTL_DATA=FOLDER python benchmarks/backbones.py        (a few minutes; without JTL_DATA the weights are left out)

Parameters are of the backbone without a head. GFLOP are XLA's count of one image's forward pass to `pooled`, before
the compiler's own changes: two for each multiplication and addition. Nothing is timed.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables
from benchmarks.measure import environment
from jtl import backbones, load, preprocess
from jtl.data import augment
from jtl.methods.finetune import predictor
from jtl.model import Model

PUBLISHED = {20: ("12fca82f", 91.73), 32: ("d509ac18", 92.63), 44: ("014dd654", 93.10), 56: ("4bfd9763", 93.39)}
"""Akamaster's CIFAR-10 ResNets: depth -> part of the file's name, published test accuracy in percent."""


def presets() -> Iterator[tuple[str, Model, tuple[int, int, int]]]:
    """Name, backbone, and the image it was made for."""
    yield "conv4(64)", backbones.conv4(64), (28, 28, 1)
    for depth in PUBLISHED:
        yield f"cifar_resnet({depth})", backbones.cifar_resnet(depth), (32, 32, 3)
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet{depth}()", getattr(backbones, f"resnet{depth}")(), (224, 224, 3)
    yield "mobilenet_v2()", backbones.mobilenet_v2(), (224, 224, 3)
    for size in ("Ti", "S", "B", "L"):
        yield f'vit("{size}")', backbones.vit(size), (224, 224, 3)


def row(name: str, backbone: Model, image: tuple[int, int, int]) -> dict[str, Any]:
    """One backbone, by shapes alone: no weight is made."""
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    variables = jax.eval_shape(backbone.init, jax.random.key(0), x)

    def forward(variables: Any, x: Any) -> Any:
        return backbone.apply(variables, x, train=False)[0]["pooled"]

    cost: Any = jax.jit(forward).lower(variables, x).cost_analysis()
    count = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    return {
        "backbone": name,
        "image": image,
        "parameters": count,
        "flops": cost["flops"],
        "published": None,
        "right": None,
    }


def right(depth: int, folder: Path) -> tuple[int, int]:
    """How many of CIFAR-10's test images a published network gets right, of how many."""
    known = load(folder / "cifar_resnet" / f"resnet{depth}-{PUBLISHED[depth][0]}.th", arch=f"cifar_resnet{depth}")
    images: Any = known.preprocessing
    backbone = preprocess(known.backbone, augment.normalise(images.mean, images.std))
    predict = jax.jit(predictor(backbone, known.head))
    stored = np.load(folder / "cifar10.npz")
    x, y = stored["x_test"], stored["y_test"]
    found = [predict(known.variables, x[i : i + 250]).argmax(-1) == y[i : i + 250] for i in range(0, len(x), 250)]
    return int(sum(part.sum() for part in found)), len(x)


def main(argv: list[str]) -> None:
    """Writes `results/backbones-*.json` and its table."""
    where, folder = environment(argv), os.environ.get("JTL_DATA")
    found = []
    for preset in presets():
        found.append(row(*preset))
        depth = next((d for d in PUBLISHED if preset[0] == f"cifar_resnet({d})"), None)
        if depth is not None and folder is not None:
            found[-1] |= {"published": PUBLISHED[depth][1], "right": right(depth, Path(folder))}
        print(found[-1], flush=True)
    results = {"benchmark": "backbones", "environment": where, "rows": found}
    tables.write(results, ROOT / "benchmarks" / "results" / f"backbones-{where['backend']}.json")


if __name__ == "__main__":
    main(sys.argv)

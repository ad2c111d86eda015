"""Ten epochs of a linear head: through the frozen network, and on features that a cache on disk holds.

    python benchmarks/cached_features.py                  # ResNet-56, 400 images of CIFAR-100 at 32 pixels

Real weights and images from `JTL_DATA`. Both sides take the same steps and are compiled before; the side of the cache
reads it anew each time: it lowers the program, hashes weights and images, and reads the files. Writes JSON, and a
Markdown table made from it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import optax

import jtl
from benchmarks import tables
from benchmarks.measure import environment
from jtl.recipes.parts import base

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(given: list[str] | None = None) -> None:
    """Times both sides and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cifar_resnet/resnet56-4bfd9763.th")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "cached_features-cpu.json")
    asked = parser.parse_args(given)
    where, file = environment(sys.argv if given is None else [__file__, *given]), base.find(None, asked.weights)
    files = np.load(base.find(None, "cifar100.npz"))
    name = f"cifar_{file.name.split('-')[0]}"
    known = jtl.load(file, arch=name, classes=100, reinit=("head/.*",), key=jax.random.key(0))
    backbone = jtl.preprocessed(known.backbone, jtl.data.augment.normalise(MEAN, STD))
    rows = np.random.default_rng(0).permutation(len(files["y_train"]))[: asked.rows]
    x, y = files["x_train"][rows], files["y_train"][rows].astype(np.int32)
    batches = [{"x": x[i : i + asked.batch], "y": y[i : i + asked.batch]} for i in range(0, len(x), asked.batch)]
    own = jtl.part(known.variables, "backbone")

    def step_of(net: Any) -> tuple[Any, Any]:
        step = jtl.make_step(jtl.features(net), optax.adam(1e-2), trainable=jtl.select("head/.*"))
        return step, jax.jit(step)

    through, run_through = step_of(jtl.network(backbone=backbone, head=known.head))
    head, run_head = step_of(jtl.network(backbone=jtl.backbones.identity(), head=known.head))
    on_features = jtl.Variables({"backbone": {}, "head": known.variables.params["head"]}, {})

    def train(step: Any, run: Any, start: Any, batches: list[Any], epochs: int) -> Any:
        state, metrics = step.init(start, jax.random.key(1)), {}
        for _ in range(epochs):
            for batch in batches:
                state, metrics = run(state, batch)
        return float(metrics["loss"])

    def cached(folder: str, epochs: int) -> float:
        seen, labels = jtl.extract(backbone, own, batches, cache=folder)
        cut = [
            {"x": seen[i : i + asked.batch], "y": labels[i : i + asked.batch]} for i in range(0, len(x), asked.batch)
        ]
        return train(head, run_head, on_features, cut, epochs)

    def clock(run: Any) -> tuple[float, float]:
        began = time.perf_counter()
        loss = run()
        return time.perf_counter() - began, loss

    with tempfile.TemporaryDirectory() as folder:
        train(through, run_through, known.variables, batches[:1], 1)  # compiles
        fill, _ = clock(lambda: cached(folder, 1))  # compiles, and fills the cache
        whole, loss = clock(lambda: train(through, run_through, known.variables, batches, asked.epochs))
        times = [clock(lambda: cached(folder, asked.epochs)) for _ in range(3)]
    if abs(times[0][1] - loss) > 1e-3 * abs(loss):
        sys.exit(f"the losses differ, {loss} through the network and {times[0][1]} on cached features")
    seconds = sorted(t for t, _ in times)[1]
    row = {"network": name, "rows": asked.rows, "epochs": asked.epochs, "fill_seconds": fill, "loss": loss}
    row |= {"network_seconds": whole, "cached_seconds": seconds, "ratio": whole / seconds}
    print(row)
    tables.write({"benchmark": "cached_features", "environment": where, "rows": [row]}, asked.json)


if __name__ == "__main__":
    main()

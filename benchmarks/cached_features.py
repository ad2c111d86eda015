"""Ten epochs of a linear head: through the frozen network, and on features from a cache on disk.

    python benchmarks/cached_features.py                  # MobileNetV2, the 244 photos of ants and bees at 192 pixels

Real weights and images from `JTL_DATA`. Both sides take the same steps and are compiled beforehand. Through the network
one epoch is timed and multiplied by ten, because all are alike. The other side reads the cache each time: it lowers the
program, hashes weights and images, reads the files, and trains ten epochs; the result is the median of three runs.
Writes JSON, and a Markdown table made from it.
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
import optax

import jtl
from benchmarks import tables
from benchmarks.measure import environment
from jtl.recipes.parts import base

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(given: list[str] | None = None) -> None:
    """Times both sides and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "cached_features-cpu.json")
    asked = parser.parse_args(given)
    where = environment(sys.argv if given is None else [__file__, *given])
    file = base.find(None, "mobilenet_v2/mobilenet_v2_features.safetensors")
    known = jtl.load(file, arch="mobilenet_v2", classes=2, reinit=("head/.*",), key=jax.random.key(0))
    photos = jtl.data.folder(base.find(None, "hymenoptera/train"), batch_size=asked.batch, size=192, drop_last=True)
    batches = [{name: photos[i][name] for name in ("x", "y")} for i in range(len(photos))]
    backbone = jtl.preprocessed(known.backbone, jtl.data.augment.normalise(MEAN, STD))
    count = asked.batch * len(batches)
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
        assert labels is not None
        cut = [{"x": seen[i : i + asked.batch], "y": labels[i : i + asked.batch]} for i in range(0, count, asked.batch)]
        return train(head, run_head, on_features, cut, epochs)

    def clock(run: Any) -> tuple[float, float]:
        began = time.perf_counter()
        loss = run()
        return time.perf_counter() - began, loss

    with tempfile.TemporaryDirectory() as folder:
        train(through, run_through, known.variables, batches[:1], 1)  # compiles
        fill, _ = clock(lambda: cached(folder, 1))  # compiles, and fills the cache
        epoch, loss = clock(lambda: train(through, run_through, known.variables, batches, 1))
        _, same = clock(lambda: cached(folder, 1))
        times = [clock(lambda: cached(folder, asked.epochs))[0] for _ in range(3)]
    if abs(same - loss) > 1e-3 * abs(loss):
        sys.exit(f"after an epoch the losses differ, {loss} through the network and {same} on cached features")
    seconds, whole = sorted(times)[1], asked.epochs * epoch
    row = {"network": "mobilenet_v2", "rows": count, "epochs": asked.epochs, "fill_seconds": fill, "loss": loss}
    row |= {"network_seconds": whole, "cached_seconds": seconds, "ratio": whole / seconds}
    print(row)
    tables.write({"benchmark": "cached_features", "environment": where, "rows": [row]}, asked.json)


if __name__ == "__main__":
    main()

"""Does fine-tuning on the support set help? `jtl adapt-few` with `--steps` (P>M>F) and without.

    python benchmarks/few_tuned.py

ImageNet's MobileNetV2 from `JTL_DATA`, images of 128 pixels, five support sets of five examples per class: ants and
bees (support from `train/`, evaluated on all of `val/`), and five of the 31 objects of Office's webcam, evaluated on
six other photos per class. Each support set is learned without steps and with 50, at the command's default learning
rate, so that gains are paired. Nothing was tuned. Writes JSON after each support set, and a Markdown table made from
it.
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

from benchmarks import tables
from benchmarks.few import WEIGHTS
from benchmarks.measure import environment
from jtl.command import few
from jtl.command.few_settings import FewShot
from jtl.recipes.parts import base

SHOT = 5


def draw(place: Path, held: Path | None, way: int, query: int, seed: int) -> tuple[dict[str, list[Path]], list]:
    """Draws support files by class, and (file, class) pairs for the evaluation.

    Args:
      place: folder of class folders.
      held: folder of class folders for the evaluation; None for `query` other files of each class.
      way: number of classes of a support set.
      query: see `held`.
      seed: seed of the draw.
    """
    rows = np.random.default_rng(seed)
    names = sorted(folder.name for folder in place.iterdir() if folder.is_dir())
    support, judged = {}, []
    for name in sorted(rows.choice(names, way, replace=False)):
        files = [Path(p) for p in rows.permutation(sorted(map(str, (place / name).iterdir())))]
        support[name] = files[:SHOT]
        others = files[SHOT : SHOT + query] if held is None else sorted((held / name).iterdir())
        judged += [(file, name) for file in others]
    return support, judged


def accuracy(support: dict[str, list[Path]], judged: list, steps: int) -> float:
    """The accuracy of one run of the command, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, files in support.items():
            (root / "support" / name).mkdir(parents=True)
            for file in files:
                (root / "support" / name / file.name).symlink_to(file.resolve())
        weights, query = str(base.find(None, WEIGHTS)), tuple(str(file) for file, _ in judged)
        settings = FewShot(weights, root / "support", query, root / "run", steps=steps, arch="mobilenet_v2", size=128)
        found = few.run(settings, lambda line: None)
    right = [found.support.classes[k] == name for k, (_, name) in zip(found.shares.argmax(1), judged, strict=True)]
    return 100 * float(np.mean(right))


def main(given: list[str] | None = None) -> None:
    """Runs all support sets and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supports", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "few_tuned-cpu.json")
    asked = parser.parse_args(given)
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())  # support sets share compiled programs
    where, started = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    photos, webcam = base.find(None, "hymenoptera"), base.find(None, "office31/webcam")
    sources: dict[str, tuple[Path, Path | None, int]] = {
        "ants and bees": (photos / "train", photos / "val", 2),
        "Office webcam": (webcam, None, 5),
    }
    rows: list[dict[str, Any]] = []
    for name, (place, held, way) in sources.items():
        pairs: list[list[float]] = []
        for seed in range(asked.supports):
            support, judged = draw(place, held, way, 6, seed)
            pairs.append([accuracy(support, judged, steps) for steps in (0, asked.steps)])
            print(name, seed, pairs[-1], flush=True)
            row = {"data": name, "way": way, "shot": SHOT, "steps": asked.steps, "supports": len(pairs)}
            known = gain(pairs) if len(pairs) > 1 else {}
            rows = [r for r in rows if r["data"] != name] + [{**row, **known, "each": pairs}]
            minutes = round((time.perf_counter() - started) / 60, 1)
            found = {"benchmark": "few_tuned", "environment": where, "minutes": minutes, "rows": rows}
            tables.write(found, asked.json)


def gain(pairs: list[list[float]]) -> dict[str, float]:
    """The mean accuracies without and with steps, the mean of the paired gains, and half their 95 % interval (t)."""
    from scipy.stats import t

    before, after = np.array(pairs).T
    difference = after - before
    half = t.ppf(0.975, len(pairs) - 1) * difference.std(ddof=1) / len(pairs) ** 0.5
    return {
        "without": float(before.mean()),
        "with": float(after.mean()),
        "gain": float(difference.mean()),
        "interval": float(half),
    }


if __name__ == "__main__":
    main()

"""Adaptation between the domains of Office-31 on frozen features of MobileNetV2: each method against the source alone.

    python benchmarks/office_adaptation.py

Real photos and ImageNet weights from `JTL_DATA`; the features of each photo, whose short side of 128 pixels is enlarged
to 224, are computed once. A bottleneck of 256 and a linear head are trained. The whole target is available without
labels and is also the test set, which is the usual protocol. Weights of the alignments are the library's defaults, and
all methods share one learning rate. The checkpoint of each run, and the method that is called best, are chosen by ONE
label-free score, which was fixed on digits (`VALIDATOR` of `adaptation_runs.py`). It is compared with the last step,
and with the best checkpoint by the target's labels (ORACLE). `probe` is a logistic regression on the frozen features of
the source, and `source` the bottleneck and head without the target. Writes JSON, and a Markdown table made from it.
"""

import argparse
import itertools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

import jtl
from benchmarks import tables
from benchmarks.adaptation_runs import OF_TARGET, VALIDATOR, Domains, Runs, Setting, resumed
from benchmarks.measure import environment
from jtl.backbones import identity
from jtl.command import passes, source
from jtl.command.model import inputs_of, pretrained
from jtl.recipes.parts import base
from jtl.recipes.parts.texts import probe

METHODS = ("source", "dann", "cdan_e", "mcc", "shot", "coral", "mmd", "afn", "bnm", "im", "mcd")
DOMAINS = {"A": "amazon", "D": "dslr", "W": "webcam"}
PAIRS = ("A to D", "A to W", "D to A", "W to A")
CLASSES = 31


def features(size: int, cache: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pooled features and labels of each domain; cached in a file if one is named."""
    if cache is not None and cache.exists():
        kept = np.load(cache)
        return {name: (kept[f"x_{name}"], kept[f"y_{name}"]) for name in DOMAINS}
    weights = str(base.find(None, "mobilenet_v2"))
    found = {}
    for name, folder in DOMAINS.items():
        examples = source.read(base.find(None, "office31") / folder)["all"]
        loaded = pretrained(weights, examples.classes, arch="mobilenet_v2", kind="images", key=jax.random.key(0))
        how, loaded = inputs_of(loaded, weights, "images", examples.items, size)
        found[name] = passes.features(loaded, how)(examples.items), examples.labels
        print(f"{folder}: features {found[name][0].shape}", flush=True)
    if cache is not None:
        np.savez(cache, **{f"{k}_{n}": a for n, both in found.items() for k, a in zip("xy", both, strict=True)})
    return found


def probed(here: tuple[np.ndarray, np.ndarray], there: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """A logistic regression on the source's features, and its scores on the target."""
    net = jtl.network(backbone=identity(), head=jtl.heads.linear(CLASSES))
    head = probe(*here, CLASSES, decay=0.01)
    z = np.asarray(jax.jit(lambda x: net.apply(head, x, train=False)[0].output)(there[0]))
    found = OF_TARGET[VALIDATOR]({"read": there[0], "output": z})
    return {"step": 0, VALIDATOR: found, "accuracy": float((z.argmax(1) == there[1]).mean())}


def main(given: list[str] | None = None) -> None:
    """Runs all methods and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="of a photo, in pixels")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64, help="photos of each domain in a step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="'source' first")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS))
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun after so many")
    parser.add_argument("--features", type=Path, help="an .npz that keeps the features")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "office_adaptation-cpu.json")
    asked = parser.parse_args(given)
    where = environment(sys.argv if given is None else [__file__, *given])
    of = features(asked.size, asked.features)
    setting = Setting(asked.steps, asked.steps // 5, asked.batch, 1e-3, 3_000, 0.3)
    pairs = {pair: lambda a=of[pair[0]], b=of[pair[-1]]: Domains(a, b, b) for pair in asked.pairs}
    net = jtl.network(backbone=jtl.backbones.mlp((256,)), head=jtl.heads.linear(CLASSES))
    record = asked.json.with_suffix(".partial.jsonl")
    rows = resumed(
        lambda shape: Runs(net, CLASSES, setting), pairs, tuple(asked.methods), asked.seeds, record, asked.minutes
    )
    probes = []
    for pair, seed in itertools.product(PAIRS, range(asked.seeds)):
        look = probed(of[pair[0]], of[pair[-1]]) if seed == 0 else probes[-1]["looks"][0]  # it has no randomness
        probes.append({"pair": pair, "method": "probe", "seed": seed, "seconds": 0.0, "looks": [look]})
    rows = sorted(probes + rows, key=lambda row: PAIRS.index(row["pair"]))
    rows = [{**row, "validator": VALIDATOR} for row in rows]
    results = {
        "benchmark": "adaptation",
        "environment": where,
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
        "validator": VALIDATOR,
        "rows": rows,
        "setting": {"size": asked.size, **setting._asdict()},
    }
    tables.write(results, asked.json)


if __name__ == "__main__":
    main()

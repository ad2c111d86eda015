"""Small tasks that the tests of meta-learning share."""

import jax
import numpy as np
from nets import batch

from jtl.typing import Aux


def quadratic(params, stats, batch, key, step):
    """½ (θ−b)ᵀ A (θ−b), with the task's A and b as its batch."""
    d = params["w"] - batch["b"]
    return 0.5 * d @ batch["A"] @ d, Aux(stats, {})


def quadratic_tasks(tasks=3, n=4, seed=0):
    draw = np.random.default_rng(seed)

    def half():
        roots = draw.normal(size=(tasks, n, n))
        return {"A": roots @ roots.swapaxes(1, 2) / n + np.eye(n), "b": draw.normal(size=(tasks, n))}

    return {"support": half(), "query": half()}, draw.normal(size=n)


def few_shot(tasks=4, shot=6, query=9, seed=0):
    def half(n, seed):
        rows = [batch(n=n, seed=seed + 10 * t) for t in range(tasks)]
        return {name: np.stack([r[name] for r in rows]) for name in rows[0]}

    return {"support": half(shot, seed), "query": half(query, seed + 1)}


def tasks_of(rows):
    return [jax.tree.map(lambda a, t=t: a[t], rows) for t in range(len(rows["x"]))]

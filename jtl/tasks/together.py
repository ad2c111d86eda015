"""Multi-task training with fixed weights."""

from collections.abc import Callable, Mapping
from typing import Any

from jtl import rng
from jtl.metrics.accumulate import as_terms
from jtl.model import Variables
from jtl.objective import NONE, Objective, as_objective
from jtl.typing import Aux, Batch, Key, Params, Stats


def together(weights: Mapping[str, float] | None = None, /, **objectives: Objective | Callable) -> Objective:
    """Returns the weighted sum of several tasks' losses, `Σ_k w_k L_k(batch_k)`, on one tree of parameters.

    Networks with the same backbone and heads of different names share the backbone's parameters: `backbone/` is
    initialised once, by the first task, and each task adds its own head. Tasks pass through the backbone one after the
    other, so each of them updates the running statistics.

    Args:
      weights: by name, the weights of tasks whose weight is not 1.
      **objectives: the objectives by task name, each on its own part of the batch.

    Returns:
      An objective on batches `{task: batch}` (`jtl.data.several`). Names of terms and metrics begin with the task, such
      as `tags/accuracy`; a single term has the name of its task. It has no `outputs`, because the tasks' rows differ:
      collect each task by its own objective.

    Raises:
      ValueError: for no objectives, or a weight of an unknown task; while tracing, for a batch that lacks a task.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> body = jtl.backbones.mlp((8,))
      >>> nets = [jtl.network(backbone=body, **{name: jtl.heads.linear(n)}) for name, n in (("sign", 2), ("size", 3))]
      >>> objective = jtl.tasks.together({"size": 0.5}, sign=jtl.finetune(nets[0]), size=jtl.finetune(nets[1]))
      >>> batch = {n: {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)} for n in ("sign", "size")}
      >>> sorted(objective.init(jax.random.key(0), batch).params)
      ['backbone', 'sign', 'size']

    Caruana, Multitask Learning, 1997.
    """
    tasks = {name: as_objective(one) for name, one in objectives.items()}
    factors = dict(weights or {})
    if not tasks or not factors.keys() <= tasks.keys():
        raise ValueError(
            f"weights of {sorted(factors)} for the tasks {sorted(tasks)}: give tasks, and weights of these"
        )

    def check(batch: Batch) -> None:
        if missing := [name for name in tasks if name not in batch]:
            raise ValueError(f"the batch has no part of the task {missing[0]!r}, only {sorted(batch)}: give each")

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[dict, Aux]:
        check(batch)
        terms: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name, task in tasks.items():
            own = None if key is None else rng.stream(key, name)
            value, aux = task(params, stats, batch[name], own, step)
            for term, mean in as_terms(value).items():
                terms[name if term == "loss" else f"{name}/{term}"] = mean.scale(factors.get(name, 1.0))
            found |= {f"{name}/{metric}": sums for metric, sums in aux.metrics.items()}
            stats = aux.stats
        return terms, Aux(stats, found)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        check(batch)
        for name, task in tasks.items():
            given = task.init(key, batch[name], given)
        return given

    def commit(stats: Stats, params: Params) -> Stats:
        for task in tasks.values():
            stats = task.commit(stats, params)
        return stats

    return Objective(run, init, commit)

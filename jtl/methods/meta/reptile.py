"""Reptile: move the start towards where each task's training leads, without the gradient of that training."""

from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops, rng
from jtl.methods.meta import spread
from jtl.methods.meta.inner_loop import MEMORY, Adapt, start_of
from jtl.metrics.accumulate import Mean
from jtl.model import Variables, upcast
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Batch, Key, Params, Stats


def reptile(adapt: Adapt, *, at_once: int | None = None) -> Objective:
    """The surrogate `mean_tasks ½ ‖θ − θ_K‖²` with θ_K held constant, whose gradient is `mean_tasks (θ − θ_K)`.

    With `optax.sgd(ε)` outside, a step is Reptile's `θ ← θ + ε mean_tasks (θ_K − θ)`. The published runs use Adam with
    β1 = 0 inside and keep its second moments across tasks: `from_optax(optax.adam(1e-3, b1=0.0))` and
    `adapt_to(..., order=1, across_tasks=True)`. The tasks of a batch then run one after the other, and the moments are
    statistics, so they are saved and a run resumes with them.

    Args:
      adapt: the training on a task's examples, `adapt_to(...)`; the rule's own parameters get no gradient.
      at_once: as in `meta`; with a memory kept across tasks leave it None.

    Returns:
      An objective on batches `{"support": {...}}` whose leaves have a leading axis of tasks. Its metric `distance` is
      `‖θ − θ_K‖`. Judge by `meta(adapt, judge)` on batches with queries.

    Raises:
      ValueError: for `at_once` below 1; while tracing, for a memory across tasks with `at_once`, or under pmap, where
        each device would have another.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
      >>> adam = jtl.from_optax(optax.adam(1e-3, b1=0.0))
      >>> objective = jtl.learners.reptile(jtl.adapt_to(jtl.finetune(net), adam, steps=5, order=1, across_tasks=True))
      >>> tasks = {"support": {"x": jnp.zeros((4, 6, 5)), "y": jnp.zeros((4, 6), int)}}
      >>> sorted(objective.init(jax.random.key(0), tasks).stats)
      ['inner']

    Nichol et al., On First-Order Meta-Learning Algorithms, 2018, arXiv 1803.02999.
    """
    spread.check(at_once)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[Mean, Aux]:
        start = start_of(params)
        still = jax.lax.stop_gradient(params)

        def distance(support: Batch, stats: Stats, i: Any) -> tuple[Any, Stats]:
            end, after = adapt(still, stats, support, rng.stream(jax.random.fold_in(key, i), "support"), step)
            squares = jax.tree.map(
                lambda a, b: jnp.square(a - b).sum(), *map(upcast, (start, jax.lax.stop_gradient(end)))
            )
            return sum(jax.tree.leaves(squares)), after

        if MEMORY not in stats:
            pair = {"support": batch["support"], "query": {}}
            squares = spread.over_tasks(lambda support, query, i: distance(support, stats, i)[0], pair, at_once)
        else:
            if at_once is not None or ops.batch_axis() is not None:
                raise ValueError("a memory kept across tasks needs them in order: leave at_once None, and use jit_step")

            def body(memory: Any, row: Any) -> tuple[Any, Any]:
                square, after = distance(row[0], {**stats, MEMORY: memory}, row[1])
                return after[MEMORY], square

            rows = (dict(batch["support"]), jnp.arange(jax.tree.leaves(batch["support"])[0].shape[0]))
            memory, squares = jax.lax.scan(body, stats[MEMORY], rows)
            stats = {**stats, MEMORY: jax.lax.stop_gradient(memory)}
        lengths = jnp.sqrt(jax.lax.stop_gradient(squares))
        found = spread.means({"loss": squares / 2, "distance": lengths})
        return found["loss"], Aux(stats, {"distance": found["distance"]}, {"loss": squares / 2, "distance": lengths})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        return adapt.init(key, jax.tree.map(lambda a: a[0], dict(batch["support"])), given)

    return Objective(run, init)

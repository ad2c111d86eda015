"""Reptile: moves the start towards the result of each task's training, without differentiating that training."""

from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops, rng
from jtl._tracing import scope
from jtl.methods.meta.inner_loop import MEMORY, STEPS, Adapt, start_of
from jtl.methods.meta.spread import Spread, check, means, over_tasks, sets
from jtl.metrics.accumulate import Mean
from jtl.model import Variables, upcast
from jtl.objective import NONE, Objective
from jtl.params import flatten
from jtl.typing import Aux, Batch, Key, Params, Stats


def reptile(adapt: Adapt, *, spread: Spread = None) -> Objective:
    """The surrogate `mean_tasks ½ ‖θ − θ_K‖²` with θ_K held constant, whose gradient is `mean_tasks (θ − θ_K)`.

    With `optax.sgd(ε)` in the outer loop, a step is Reptile's `θ ← θ + ε mean_tasks (θ_K − θ)`. The published runs use
    Adam with β1 = 0 in the inner loop and keep its second moments across tasks: `from_optax(optax.adam(1e-3, b1=0.0))`
    and `adapt_to(..., order=1, across_tasks=True)`. The tasks of a batch then run one after the other. The moments are
    statistics, so they are saved in checkpoints and a resumed run has them.

    Args:
      adapt: the training on a task's examples, `adapt_to(...)`; the rule's own parameters get no gradient.
      spread: as in `meta`; it must be None with a memory across tasks.

    Returns:
      An objective on batches `{"support": {...}}` whose leaves have a leading axis of tasks. Its metric `distance` is
      `‖θ − θ_K‖`. To evaluate, use `meta(adapt, judge)` on batches with queries.

    Raises:
      ValueError: for another `spread`; while tracing, for a memory across tasks with a `spread` or under pmap, because
        the devices' memories would differ; for per-step parameters (`per_step`), which would never learn; in half
        precision, for ways to adapt other than `adapt_to`.

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
    check(spread)

    def task(shared: tuple, support: Batch, query: Any, i: Any) -> tuple[dict, dict]:
        del query
        params, stats, key, step = shared
        square, _ = distance(params, stats, key, step, support, i)
        return {"loss": square / 2}, {"distance": jnp.sqrt(jax.lax.stop_gradient(square))}

    def trained(params: Params, stats: Stats, support: Batch, key: Key, step: Any) -> tuple[Params, Stats]:
        """θ_K in full precision, because the difference between rounded parameters would be mostly rounding error."""
        _refuse_per_step(params)
        if adapt.each is not None:
            return adapt.each(params, stats, support, key, step, lambda params, stats: ())[:2]
        narrow = sorted({a.dtype.name for a in jax.tree.leaves(params) if upcast(a).dtype != a.dtype})
        if narrow:
            raise ValueError(
                f"parameters in {narrow[0]}, and a way to adapt that has no steps of adapt_to: its result is rounded,"
                " and Reptile's gradient is the difference to it; compute in float32"
            )
        return adapt(params, stats, support, key, step)

    def distance(params: Params, stats: Stats, key: Key, step: Any, support: Batch, i: Any) -> tuple[Any, Stats]:
        still = jax.lax.stop_gradient(params)
        with scope.nothing_frozen():
            end, after = trained(still, stats, support, rng.stream(jax.random.fold_in(key, i), "support"), step)
        ends = map(upcast, (start_of(params), jax.lax.stop_gradient(end)))
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.square(a - b).sum(), *ends))), after

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[Mean, Aux]:
        (support,) = sets(batch, ("support",))
        if MEMORY not in stats:
            pair = {"support": support, "query": {}}
            loss, losses, found = over_tasks(task, (params, stats, key, step), pair, spread)
            return loss["loss"], Aux(stats, means(found), {**losses, **found})
        if spread is not None or ops.batch_axis() is not None:
            raise ValueError("a memory kept across tasks needs them in order: leave spread None, and use jit_step")

        def body(memory: Any, row: Any) -> tuple[Any, Any]:
            square, after = distance(params, {**stats, MEMORY: memory}, key, step, row[0], row[1])
            return after[MEMORY], square

        rows = (support, jnp.arange(jax.tree.leaves(support)[0].shape[0]))
        memory, squares = jax.lax.scan(body, stats[MEMORY], rows)
        found = {"loss": squares / 2, "distance": jnp.sqrt(jax.lax.stop_gradient(squares))}
        own = means(found)
        kept = {**stats, MEMORY: jax.lax.stop_gradient(memory)}
        return own["loss"], Aux(kept, {"distance": own["distance"]}, found)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        (support,) = sets(batch, ("support",))
        made = adapt.init(key, jax.tree.map(lambda a: a[0], support), given)
        _refuse_per_step(made.params)
        return made

    return Objective(run, init)


def _refuse_per_step(params: Params) -> None:
    if STEPS in params:
        raise ValueError(
            f"the parameters hold {sorted(flatten(params[STEPS]))} for each step (adapt_to's per_step), and"
            " Reptile has no gradient for them: leave per_step None, or take jtl.meta"
        )

"""Model-agnostic meta-learning: learn where an inner loop starts, and how it steps."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jtl import ops, rng
from jtl.methods.meta.update_rules import UpdateRule
from jtl.metrics import accumulate
from jtl.metrics.accumulate import Mean
from jtl.model import Variables, widened
from jtl.params import merge, select, split
from jtl.typing import Aux, Batch, Key, Mask, Objective, Params, Stats

RULE = "rule"
"""Where the update rule's own parameters stand, beside `backbone/` and `head/`."""


def adapt_to(
    inner: Objective, rule: UpdateRule, *, steps: int, order: int = 2, adapted: Mask | None = None
) -> Callable:
    """The inner loop: `θ_k = rule(φ, ∇_θ L_support(θ_{k−1}), θ_{k−1})`, k = 1 … steps.

    Use it by itself after meta-training, with as many steps as wanted, to adapt to a new task. Between the steps
    parameters are float32 (float64 where they are) whatever the objective computes in, so that small ones add up.

    Args:
      inner: any objective; it is given the support set as its batch.
      rule: `fixed_rate(α)`, `learned_rate()` or any other `UpdateRule`.
      steps: how many inner steps.
      order: 2 differentiates through the inner gradients, 1 takes them as constants (first-order MAML).
      adapted: which parameters the inner loop changes; None for all.

    Returns:
      `adapt(params, stats, support, key, step) -> (params, stats)`. The statistics that come back are those of
      the last pass over the support set.

    Raises:
      ValueError: for steps below 1 or an order other than 1 and 2.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: the inner loop takes at least one step")
    if order not in (1, 2):
        raise ValueError(f"order={order}: 1 (first-order MAML) or 2")
    mask = select(".*") if adapted is None else adapted

    def adapt(params: Params, stats: Stats, support: Batch, key: Key, step: Any = 0) -> tuple[Params, Stats]:
        phi, rest = params.get(RULE, {}), {name: value for name, value in params.items() if name != RULE}
        given, slow = split(rest, mask)
        start = widened(given)

        def whole(fast):
            return merge(jax.tree.map(lambda a, like: a.astype(like.dtype), fast, given), slow)

        def loss(fast, stats, key):
            value, aux = inner(whole(fast), stats, support, key, step)
            return accumulate.total(value), aux.stats

        def body(carry, k):
            fast, stats, memory = carry
            grads, stats = jax.grad(loss, has_aux=True)(fast, stats, jax.random.fold_in(key, k))
            if order == 1:
                grads = jax.lax.stop_gradient(grads)
            before, (fast, memory) = fast, rule.step(phi, grads, fast, memory)
            chex.assert_trees_all_equal_shapes_and_dtypes(fast, before, custom_message="parameters of an update rule")
            return (fast, stats, memory), None

        (fast, stats, _), _ = jax.lax.scan(body, (start, stats, rule.start(phi, start)), jnp.arange(steps))
        return whole(fast), stats

    return adapt


def with_rule(variables: Variables, rule: UpdateRule, *, adapted: Mask | None = None) -> Variables:
    """The variables with the update rule's own parameters beside them, under `rule/`, where it has any."""
    phi = rule.init(split(variables.params, select(".*") if adapted is None else adapted)[0])
    return Variables({**variables.params, **({RULE: phi} if phi else {})}, variables.stats)


def maml(
    inner: Objective,
    rule: UpdateRule,
    *,
    steps: int,
    order: int = 2,
    adapted: Mask | None = None,
    outer: Objective | None = None,
) -> Objective:
    """The meta-objective `mean_tasks L_query(θ_K)`, θ_K from `adapt_to` on the task's support set.

    It is an objective like any other, so the one step trains θ and the rule's φ together. To add up gradients
    task by task in a scan, which is fastest on a CPU and needs one task's memory, give the step
    `microbatch=tasks`; with fewer parts the tasks of a part run side by side.

    Args:
      inner: the objective of the inner loop, on the support set.
      rule: how the inner loop steps.
      steps: inner steps.
      order: 2, or 1 for first-order MAML.
      adapted: which parameters the inner loop changes; None for all (ANIL: the head's alone).
      outer: the objective on the query set; None is `inner`. With a BatchNorm of momentum 1, `inner` normalises a
        query by its own batch (transductive) and `evaluation(...)` by the support set's (inductive).

    Returns:
      An objective on batches `{"support": {...}, "query": {...}}` whose leaves have a leading axis of tasks.
      Statistics come back as they went in: those of one task mean nothing to the next.

    Finn et al., Model-Agnostic Meta-Learning, 2017, arXiv 1703.03400.
    """
    adapt = adapt_to(inner, rule, steps=steps, order=order, adapted=adapted)
    judge = inner if outer is None else outer

    def objective(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        def task(support, query, i):
            own = jax.random.fold_in(key, i)
            fast, after = adapt(params, stats, support, rng.stream(own, "support"), step)
            loss, aux = judge(fast, after, query, rng.stream(own, "query"), step)
            return accumulate.values(accumulate.as_terms(loss)), accumulate.values(aux.metrics)

        tasks = jax.tree.leaves(batch["support"])[0].shape[0]
        with ops.apart():
            if tasks == 1:  # XLA's CPU backend keeps a batch dimension of one, and its batched products are slow
                only = jax.tree.map(lambda a: a[0], dict(batch))
                losses, found = jax.tree.map(lambda v: v[None], task(only["support"], only["query"], 0))
            else:
                losses, found = jax.vmap(task)(batch["support"], batch["query"], jnp.arange(tasks))

        def over_tasks(v: Any) -> Mean:
            return Mean(v.sum(), jnp.full((), float(tasks), v.dtype))

        terms, metrics = ({n: over_tasks(v) for n, v in part.items()} for part in (losses, found))
        return terms, Aux(stats, metrics)

    return objective

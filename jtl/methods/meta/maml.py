"""Meta-learning: learns an initialisation and an update rule by the loss after adaptation to a task."""

from collections.abc import Callable
from typing import Any

import jax

from jtl import rng
from jtl.methods.meta.inner_loop import Adapt, adapt_to, start_of
from jtl.methods.meta.spread import Spread, check, means, over_tasks, sets
from jtl.methods.meta.update_rules import UpdateRule
from jtl.metrics import accumulate
from jtl.model import Variables
from jtl.objective import NONE, Objective, as_objective
from jtl.params import flatten, merge, unflatten
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats


def meta(adapt: Adapt, judge: Objective | Callable, *, spread: Spread = None) -> Objective:
    """The meta-objective `mean_tasks L_query(adapt(θ, support))`, for any way to adapt.

    It is an objective like any other, so one step trains θ and the adaptation's own parameters together. On a CPU the
    tasks run one after the other and their gradients are accumulated, which needs the memory of one task and is several
    times as fast for networks whose adapted weights differ between tasks; on other platforms they run in parallel.
    Neither changes the result. Each of several devices has its own tasks, and gradients are reduced once per step.

    Modules whose parameters are frozen run like all others, in the mode of `adapt` and of `judge`, because adaptation
    after training knows of no frozen modules. `finetune(net, frozen_stats=True)` keeps a backbone's running statistics
    in both.

    Args:
      adapt: the way from a task's support set to its parameters, such as `adapt_to(...)`.
      judge: the objective on the query set, at the adapted parameters.
      spread: how the tasks of a device run: "vmap", all in parallel; "scan", one after the other; a number, so many in
        parallel at a time, which needs less memory than "vmap"; None, "scan" if the platform is a CPU while tracing,
        else "vmap". With `make_step(..., microbatch=n)` it applies to the tasks of each part.

    Returns:
      An objective on batches `{"support": {...}, "query": {...}}` whose leaves have a leading axis of tasks. Statistics
      are returned unchanged, because one task's statistics mean nothing to the next. For `jtl.collect`, the objective
      outputs the loss and each metric of every task, [tasks], held constant.

    Raises:
      ValueError: for another `spread`; while tracing, for a metric that is not one number per task.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
      >>> inner = jtl.finetune(net)
      >>> objective = jtl.meta(jtl.adapt_to(inner, jtl.learned_rate(0.1), steps=1), inner)
      >>> tasks = {"x": jnp.zeros((4, 6, 5)), "y": jnp.zeros((4, 6), int)}
      >>> variables = objective.init(jax.random.key(0), {"support": tasks, "query": tasks})
      >>> sorted(variables.params)
      ['backbone', 'head', 'rule']
    """
    check(spread)
    judge = as_objective(judge)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        def task(shared, support, query, i):
            params, stats, key, step = shared
            own = jax.random.fold_in(key, i)
            fast, after = adapt(params, stats, support, rng.stream(own, "support"), step)
            loss, aux = judge(fast, after, query, rng.stream(own, "query"), step)
            terms = accumulate.as_terms(loss)
            accumulate.distinct(terms, aux.metrics)
            return accumulate.values(terms), accumulate.values(aux.metrics)

        loss, losses, found = over_tasks(task, (params, stats, key, step), batch, spread)
        return loss, Aux(stats, means(found), {"loss": sum(losses.values()), **found})

    return Objective(run, initialise(adapt, judge))


def initialise(adapt: Adapt, judge: Objective) -> Callable[..., Variables]:
    """The `init` of an objective over tasks: initialises what `adapt` and `judge` need, on the first task's shapes."""

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        support, query = jax.tree.map(lambda a: a[0], sets(batch))
        made = adapt.init(key, support, given)
        network = judge.init(key, query, Variables(start_of(made.params), made.stats))
        lacked = {path: a for path, a in flatten(network.params).items() if path not in flatten(start_of(made.params))}
        return Variables(merge(made.params, unflatten(lacked)), network.stats)

    return init


def maml(
    inner: Objective | Callable,
    rule: UpdateRule,
    *,
    steps: int,
    order: int = 2,
    adapted: Mask | None = None,
    outer: Objective | Callable | None = None,
    spread: Spread = None,
) -> Objective:
    """The meta-objective `mean_tasks L_query(θ_K)`, θ_K from `adapt_to` on the task's support set: a case of `meta`.

    Args:
      inner: the objective of the inner loop, on the support set.
      rule: the update rule of the inner loop.
      steps: number of inner steps.
      order: 2, or 1 for first-order MAML.
      adapted: which parameters the inner loop changes; None for all (ANIL: only the head's).
      outer: the objective on the query set; None for `inner`. With a BatchNorm of momentum 1, `inner` normalises
        queries by their own batch (transductive), and `evaluation(...)` by the support set (inductive).
      spread: as in `meta`.

    Returns:
      The same kind of objective as `meta`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
      >>> objective = jtl.maml(jtl.finetune(net), jtl.fixed_rate(0.4), steps=1)

    Finn et al., Model-Agnostic Meta-Learning, 2017, arXiv 1703.03400.
    """
    adapt = adapt_to(inner, rule, steps=steps, order=order, adapted=adapted)
    return meta(adapt, inner if outer is None else outer, spread=spread)

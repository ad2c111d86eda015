"""MAML++'s multi-step loss: judges the query set after every inner step, with less and less weight before the last."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl import rng
from jtl.methods.meta import checked
from jtl.methods.meta.inner_loop import Adapt
from jtl.methods.meta.maml import initialise
from jtl.methods.meta.spread import Spread, check, means, over_tasks
from jtl.metrics import accumulate
from jtl.objective import Objective, as_objective
from jtl.typing import Aux, Batch, Key, Params, Schedule, Stats


def multi_step(adapt: Adapt, judge: Objective | Callable, weights: Schedule, *, spread: Spread = None) -> Objective:
    """The meta-objective `mean_tasks Σ_k w_k L_query(θ_k)` over the inner steps k = 1 … K.

    MAML++ uses this with learning rates per tensor and step, normalisation per step, and a first phase of first order:
    `adapt_to(inner, per_step_rates(0.1, steps=5), steps=5, per_step=select(".*/norm/.*"))`, and the phases
    `[Phase(0, first), Phase(10_000, second)]` of its objectives of order 1 and 2.

    Args:
      adapt: `adapt_to(...)` with at least one step.
      judge: the objective on the query set.
      weights: a function from the training step to w, [K], such as `annealed_weights(...)`.
      spread: as in `meta`.

    Returns:
      The same kind of objective as `meta`; its metrics are those after the last inner step.

    Raises:
      ValueError: for a way to adapt that has no steps, or another `spread`; while tracing, if there is not one weight
        per inner step, or for a metric that is not one number per task.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
      >>> inner, rule = jtl.finetune(net), jtl.learners.per_step_rates(0.1, steps=5)
      >>> weights = jtl.learners.annealed_weights(5, over=15_000)
      >>> objective = jtl.learners.multi_step(jtl.adapt_to(inner, rule, steps=5), inner, weights)

    Antoniou et al., How to Train Your MAML, 2019, arXiv 1810.09502.
    """
    each = adapt.each
    if each is None:
        raise ValueError("multi_step needs inner steps: give adapt_to(..., steps=1) or more")
    check(spread)
    judge = as_objective(judge)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        def task(shared, support, query, i):
            params, stats, key, step = shared
            own = jax.random.fold_in(key, i)

            def judged(fast: Params, after: Stats) -> tuple[dict, dict]:
                loss, aux = judge(fast, after, query, rng.stream(own, "query"), step)
                terms = accumulate.as_terms(loss)
                accumulate.distinct(terms, aux.metrics)
                return accumulate.values(terms), accumulate.values(aux.metrics)

            _, _, (losses, found) = each(params, stats, support, rng.stream(own, "support"), step, judged)
            w = jnp.asarray(weights(step))
            for name, values in losses.items():
                if values.shape != w.shape:
                    raise ValueError(f"weights of shape {w.shape} for the losses {name!r} of {len(values)} inner steps")
            return {n: v @ w.astype(v.dtype) for n, v in losses.items()}, jax.tree.map(lambda v: v[-1], found)

        loss, losses, found = over_tasks(task, (params, stats, key, step), batch, spread)
        return loss, Aux(stats, means(found), {"loss": sum(losses.values()), **found})

    return Objective(run, initialise(adapt, judge))


def annealed_weights(steps: int, *, over: int) -> Schedule:
    """Weights of K inner steps at training step t: they go from 1/K each to almost all weight on the last.

    `w_k = max(1/K − t/(K T), 0.03/K)` for k < K and `w_K = 1 − Σ_{k<K} w_k`.

    Args:
      steps: K.
      over: T, the number of training steps over which the earlier weights fall; the paper uses 15 of its 100 to 150
        epochs.

    Raises:
      ValueError: if either is not an integer of at least 1.

    Example:
      >>> import jtl
      >>> [round(float(w), 3) for w in jtl.learners.annealed_weights(3, over=100)(1000)]
      [0.01, 0.01, 0.98]

    Antoniou et al., How to Train Your MAML, 2019, arXiv 1810.09502.
    """
    checked.whole(1, steps=steps, over=over)

    def weights(step: Any) -> Array:
        early = jnp.maximum(1 / steps - jnp.asarray(step, jnp.result_type(float)) / (steps * over), 0.03 / steps)
        return jnp.append(jnp.full(steps - 1, early), 1 - (steps - 1) * early)

    return weights

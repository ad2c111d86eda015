"""Results over episodes, as the few-shot literature reports them: a mean with its 95 % confidence interval."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Num

from jtl import rng
from jtl.methods.meta.inner_loop import Adapt
from jtl.methods.meta.spread import Spread, check, over_tasks
from jtl.metrics import accumulate
from jtl.model import Variables
from jtl.objective import Objective, as_objective
from jtl.typing import Key, Params, Stats


class Estimate(NamedTuple):
    """A mean over episodes.

    Args:
      mean: the mean of the values.
      interval: half the width of the mean's 95 % confidence interval, `1.96 s / √n`.
      episodes: n, the number of episodes.
    """

    mean: np.ndarray
    interval: np.ndarray
    episodes: int


def estimate(values: Num[ArrayLike, "episodes ..."]) -> Estimate:
    """The mean of one value per episode, and `1.96 s / √n` with s² the unbiased variance between episodes.

    Raises:
      ValueError: for fewer than two episodes, which have no confidence interval.

    Example:
      >>> import numpy as np, jtl
      >>> found = jtl.learners.estimate(np.array([0.5, 0.7, 0.9]))
      >>> round(float(found.mean), 3), round(float(found.interval), 3)
      (0.7, 0.226)
    """
    a = np.asarray(values, np.float64)
    if len(a) < 2:
        raise ValueError(f"{len(a)} episodes: an interval needs two or more, and 600 are usual")
    return Estimate(a.mean(0), 1.96 * a.std(0, ddof=1) / len(a) ** 0.5, len(a))


def over_episodes(
    adapt: Adapt,
    judges: Mapping[str, Objective | Callable],
    variables: Variables,
    data: Any,
    *,
    metric: str = "accuracy",
    spread: Spread = None,
    key: Key | None = None,
) -> dict[str, Estimate]:
    """Adapts to every episode of a data set, and judges the result by one or several objectives.

    It is compiled once for the same `adapt` and judges: if you evaluate repeatedly in a loop, create them before it.

    Args:
      adapt: `adapt_to(...)`, `prototypes(net)` or any other `Adapt`.
      judges: objectives on the query sets, by name. {"transductive": finetune(net), "inductive": evaluation(net)} are
        the two ways to normalise, and both should be reported.
      variables: the trained variables.
      data: episodes, in `len(data)` batches; 600 episodes or more are usual.
      metric: the name of a metric of the judges, or "loss".
      spread: as in `meta`.
      key: key for all randomness; None for key 0.

    Returns:
      The estimate for each judge. If `adapt` takes steps, its arrays are [K + 1], after 0 … K inner steps (at 0 with
      the statistics of the support set); for any other adaptation they have one entry.

    Raises:
      ValueError: for no judges, a metric that a judge does not have, or fewer than two episodes.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(2))
      >>> adapt = jtl.adapt_to(jtl.finetune(net), jtl.fixed_rate(0.1), steps=3)
      >>> data = jtl.data.episodes(jnp.ones((4, 6, 5)), way=2, shot=1, query=3, tasks=2, steps=5)
      >>> variables = net.init(jax.random.key(0), jnp.ones((1, 5)))
      >>> found = jtl.learners.over_episodes(adapt, {"inductive": jtl.evaluation(net)}, variables, data)["inductive"]
      >>> found.mean.shape, found.episodes
      ((4,), 10)
    """
    if not judges:
        raise ValueError("no judges: give {'inductive': jtl.evaluation(net), 'transductive': jtl.finetune(net)}")
    check(spread)
    run = _compiled(adapt, tuple(judges.items()), metric, spread)
    root = jax.random.key(0) if key is None else key
    parts, pending = [], []
    for i in range(len(data)):
        pending.append(run(variables, data[i], root, jnp.uint32(i)))
        if i:  # one batch behind, so that the devices compute while the next batch is loaded
            parts.append(jax.device_get(pending.pop(0)))
    parts += jax.device_get(pending)
    if not parts:
        raise ValueError("the data set to evaluate on is empty")
    return {name: estimate(np.concatenate([part[name] for part in parts])) for name in judges}


@functools.lru_cache(maxsize=8)
def _compiled(adapt: Adapt, judges: tuple[tuple[str, Objective | Callable], ...], metric: str, spread: Spread) -> Any:
    """`run(variables, batch, key, index)`, each judge's value per episode; the same function for equal arguments."""
    objectives = {name: as_objective(judge) for name, judge in judges}

    @jax.jit
    def run(variables: Variables, batch: Any, key: Key, index: Any) -> dict[str, Any]:
        def task(shared: tuple, support: Any, query: Any, i: Any) -> tuple[dict, dict[str, Any]]:
            (params, stats), root = shared
            own = jax.random.fold_in(root, i)
            inner, outer = rng.stream(own, "support"), rng.stream(own, "query")

            def judged(params: Params, stats: Stats) -> dict[str, Any]:
                return {name: _value(name, o, params, stats, query, outer, metric) for name, o in objectives.items()}

            if adapt.each is not None:
                return {}, adapt.each(params, stats, support, inner, 0, judged, begin=True)[2]
            return {}, jax.tree.map(lambda a: a[None], judged(*adapt(params, stats, support, inner, 0)))

        return over_tasks(task, (variables, rng.stream(key, "evaluate", index)), batch, spread)[2]

    return run


def _value(name: str, judge: Objective, params: Params, stats: Stats, query: Any, key: Key, metric: str) -> Any:
    loss, aux = judge(params, stats, query, key, 0)
    accumulate.distinct(accumulate.as_terms(loss), aux.metrics)
    found = {"loss": accumulate.total(loss), **accumulate.values(aux.metrics)}
    if metric not in found:
        raise ValueError(f"metric={metric!r}: the judge {name!r} gives {sorted(found)}")
    return found[metric]

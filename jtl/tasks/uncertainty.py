"""Multi-task training with learned weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jtl.metrics.accumulate import as_terms
from jtl.model import Variables
from jtl.objective import NONE, Objective, as_objective
from jtl.tasks.together import together
from jtl.typing import Aux, Batch, Key, Params, Stats

PARAMETER = "log_variances"


def uncertainty_weighted(**objectives: Objective | Callable) -> Objective:
    """Weights several tasks by learned variances, `Σ_k exp(−s_k) L_k + s_k / 2` with `s_k = log σ_k²`.

    At the minimum over s_k the weight is `1 / (2 L_k)`. The s_k are parameters, `log_variances/<task>`, initially 0:
    `trainable` must select them. This is the form for cross-entropy; for a regression let L_k be half the squared
    error.

    Args:
      **objectives: the objectives by task name, as in `together`; their losses must not be negative.

    Returns:
      An objective on batches `{task: batch}`; its terms have the names of `together`, and `log_variances` is
      `Σ s_k / 2`.

    Raises:
      ValueError: for no objectives, or a task named `log_variances`; at init, for given `log_variances` of other tasks.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> body = jtl.backbones.mlp((8,))
      >>> nets = [jtl.network(backbone=body, **{name: jtl.heads.linear(n)}) for name, n in (("sign", 2), ("size", 3))]
      >>> objective = jtl.tasks.uncertainty_weighted(sign=jtl.finetune(nets[0]), size=jtl.finetune(nets[1]))
      >>> batch = {n: {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)} for n in ("sign", "size")}
      >>> objective.init(jax.random.key(0), batch).params["log_variances"]["size"].tolist()
      0.0

    Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, 2017, arXiv 1705.07115.
    """
    if PARAMETER in objectives:
        raise ValueError(f"a task is called {PARAMETER!r}, as the parameters of the weights are: give it another name")
    tasks = {name: as_objective(one) for name, one in objectives.items()}
    inner = together(**tasks)

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[dict, Aux]:
        own = params[PARAMETER]
        rest = {name: part for name, part in params.items() if name != PARAMETER}
        value, aux = inner(rest, stats, batch, key, step)
        terms = {name: mean.scale(jnp.exp(-own[name.split("/")[0]])) for name, mean in as_terms(value).items()}
        return {**terms, **as_terms({PARAMETER: sum(own[name] for name in tasks) / 2})}, aux

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        params, stats = inner.init(key, batch, given)
        found = params.get(PARAMETER, {name: jnp.zeros(()) for name in tasks})
        if not isinstance(found, Mapping) or set(found) != set(tasks):
            raise ValueError(f"given parameters {PARAMETER!r} hold {found}, not one number for each of {sorted(tasks)}")
        return Variables({**params, PARAMETER: found}, stats)

    return Objective(run, init, inner.commit)

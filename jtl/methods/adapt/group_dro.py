"""Distributionally robust training over several labelled domains: those with the largest loss get most weight."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl import losses
from jtl.methods.adapt.views import ignoring, look
from jtl.methods.adapt.vrex import checked, counted, labelled, risk_of
from jtl.methods.finetune.finetune import ACCURACY
from jtl.methods.terms import whole
from jtl.methods.views import needs
from jtl.metrics.accumulate import Metric, measure
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats


def group_dro(
    net: Model,
    domains: Sequence[str],
    loss: Callable = losses.cross_entropy,
    *,
    rate: float = 0.01,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
    name: str = "group_dro",
) -> Objective:
    """The objective `Σ_d q_d R_d` over labelled domains, with `R_d` a domain's mean loss and `q_d ∝ q_d e^{η R_d}`.

    The weights q start equal, are updated before they are used, and are kept in the statistics. A domain without rows
    in a batch counts as having loss 0. With microbatches q is updated once per part.

    Args:
      net: `jtl.network(backbone=..., head=...)`.
      domains: the views' names, two or more.
      loss: one value per row.
      rate: η > 0.
      metrics: metrics of each domain, as in `finetune`; they are reported as `<domain>/<metric>`.
      ignore: as in `finetune`.
      name: name of q in the statistics.

    Returns:
      An objective on batches `{domain: {"x", "y", "mask"}, ...}`. Each domain has a term, and its weight and its loss
      are the metrics `<domain>/weight` and `<domain>/risk`.

    Raises:
      ValueError: for fewer than two domains, or a rate that is not positive; while tracing, for a domain that is
        missing or has no labels.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.group_dro(net, ("photo", "sketch"))
      >>> rows = {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> objective.init(jax.random.key(0), {"photo": rows, "sketch": rows}).stats["group_dro"].tolist()
      [0.5, 0.5]

    Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, 2019, arXiv 1911.08731.
    """
    names = checked(domains)
    if not 0 < rate < jnp.inf:
        raise ValueError(f"rate={rate}: the rate of the weights must be positive")

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        views, stats = look(net, params, stats, batch, key)
        views = ignoring(views, ignore)
        risks = {d: risk_of(views, d, loss) for d in names}
        now = jax.lax.stop_gradient(jnp.stack([whole(risks[d]) for d in names]))
        q = jax.nn.softmax(jnp.log(stats[name]) + rate * now.astype(stats[name].dtype))
        q = jnp.maximum(q, jnp.finfo(q.dtype).tiny)  # a weight of 0 would stay 0 forever
        terms = {d: risks[d].scale(q[i]) for i, d in enumerate(names)}
        found: dict[str, Any] = {}
        for i, d in enumerate(names):
            view = labelled(views, d)
            found |= {
                f"{d}/{n}": measure(metric, view.output, view.y, counted(view), name=n) for n, metric in metrics.items()
            }
            found |= {f"{d}/weight": q[i], f"{d}/risk": risks[d]}
        return terms, Aux({**stats, name: q}, found, {d: view.output for d, view in views.items()})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, names, name)
        variables = complete(net.init, key, batch[names[0]]["x"], given)
        if name in variables.stats:
            return variables
        return Variables(variables.params, {**variables.stats, name: jnp.full(len(names), 1 / len(names))})

    return Objective(run, init, classes=net.classes)

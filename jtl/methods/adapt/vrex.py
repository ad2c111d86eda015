"""Risk extrapolation over several labelled domains: the variance of their losses is penalised."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jtl import losses, ops
from jtl.methods import terms
from jtl.methods.adapt.views import View, Views
from jtl.metrics.accumulate import Mean, element_weights, mean
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def vrex(
    domains: Sequence[str],
    weight: float | Schedule = 1.0,
    *,
    loss: Callable = losses.cross_entropy,
    name: str = "vrex",
) -> Objective:
    """The term `β Var_d R_d` over labelled domains d, `R_d` a domain's mean loss; `Var` divides by their number.

    Added to `adapt(net, labelled=domains)`, this gives the paper's `β Var_d R_d + Σ_d R_d`. A domain without rows in a
    batch is left out. With microbatches it is the variance within each part.

    Args:
      domains: the views' names, two or more.
      weight: β, a number or a function of the step. A common choice is 1 for some hundred steps and then a large
        number. The optimizer should then restart, because its moments are those of another loss: `jtl.optim.restarted`.
      loss: one value per row, as in `adapt`.
      name: name of the term.

    Returns:
      An alignment with the metric `<name>_weight`, the β of this step.

    Raises:
      ValueError: for fewer than two domains; while tracing, for a domain that is missing or has no labels.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> domains = ("photo", "sketch")
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.vrex(domains, 10.0)], labelled=domains)

    Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, 2020, arXiv 2003.00688.
    """
    terms.checked(weight, name)
    names = checked(domains)

    def term(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[dict, Aux]:
        del params, key
        beta = terms.at_step(weight, step)
        risks = [risk_of(views, d, loss) for d in names]
        r = jnp.stack([terms.whole(m) for m in risks])
        seen = jnp.stack([ops.batch_sum(m.count) > 0 for m in risks]).astype(r.dtype)
        n = jnp.maximum(seen.sum(), 1.0)
        variance = (seen * (r - (seen * r).sum()[None] / n) ** 2).sum() / n
        return {name: beta * variance}, Aux(stats, {f"{name}_weight": jnp.asarray(beta, jnp.float32)})

    return Objective(term)


def checked(domains: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of domains as a tuple.

    Raises:
      ValueError: for fewer than two names, or a name that occurs twice.
    """
    if isinstance(domains, str) or len(set(domains)) < max(2, len(domains)):
        raise ValueError(f"domains={domains!r}: give the names of two labelled views or more, each once")
    return tuple(domains)


def labelled(views: Views, domain: str) -> View:
    """A view with labels, with zeros for numbers that do not count and cannot be computed with, such as NaN.

    Raises:
      ValueError: for a view that is missing or has no labels.
    """
    if domain not in views or views[domain].y is None:
        raise ValueError(f"the batch has no labels of {domain!r}, only views {sorted(views)}")
    view = views[domain]
    output, y = ops.without_masked((view.output, view.y), view.mask)
    return view._replace(output=output, y=ops.without_masked(y, view.rows.get("weights")))


def risk_of(views: Views, domain: str, loss: Callable) -> Mean:
    """The mean loss of a domain's rows, under its mask and weights."""
    view = labelled(views, domain)
    return mean(loss(view.output, view.y), view.mask, view.rows.get("weights"))


def counted(view: View) -> Any:
    """The product of a view's mask and weights; None if it has neither."""
    return element_weights(jnp.shape(view.y), view.mask, view.rows.get("weights"))

"""AND-mask over several labelled domains: a parameter moves only where its gradients agree in sign."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl import checked, losses, ops
from jtl.methods.adapt.views import ignoring, look
from jtl.methods.adapt.vrex import checked as names_of
from jtl.methods.adapt.vrex import counted, labelled, risk_of
from jtl.methods.finetune.finetune import ACCURACY
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean, Metric, measure
from jtl.model import Model, Variables, upcast
from jtl.objective import NONE, Objective, complete
from jtl.params import merge, select, split
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats


def and_mask(
    net: Model,
    domains: Sequence[str],
    loss: Callable = losses.cross_entropy,
    *,
    agreement: float = 1.0,
    rescale: bool = False,
    trainable: Mask | None = None,
    ignore: int | None = None,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    name: str = "and_mask",
) -> Objective:
    """The mean of the risks of D labelled domains, with the gradient `m ⊙ (1/D) Σ_d g_d`, `g_d` that of a domain.

    `m_j = 1` where `|Σ_d sign(g_d)_j| ≥ τ D`, and 0 elsewhere. The gradient is then no longer that of a function, so
    the objective has no second derivatives. Optimizers with momentum or decay move parameters of mask 0 too.

    A domain without rows in a batch is left out. With microbatches each part has its own mask. One pass forward serves
    all domains; the pass backward is repeated for each, and D gradients are held in memory.

    Args:
      net: `jtl.network(backbone=..., head=...)`.
      domains: the views' names, two or more.
      loss: one value per row.
      agreement: τ in [0, 1]: 1 asks for the same sign in all domains, 0 gives the gradient of the mean.
      rescale: divide each array of the gradient by the share of its entries that are left. The paper's formula has no
        such factor. The authors' code has it as an option, and DomainBed always uses it.
      trainable: the mask that is passed to the step, so that no other gradients are computed; None for all parameters.
      ignore: as in `finetune`.
      metrics: metrics of each domain, as in `finetune`; they are reported as `<domain>/<metric>`.
      name: name of the metric.

    Returns:
      An objective on batches `{domain: {"x", "y", "mask"}, ...}` with a term for each domain, its share of the mean,
      and the metric `<name>/kept`, the share of parameters with mask 1.

    Raises:
      ValueError: for fewer than two domains, or an agreement out of range; while tracing, for a domain that is missing
        or has no labels.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.and_mask(net, ("photo", "sketch", "art"), agreement=0.3)

    Parascandolo et al., Learning Explanations That Are Hard to Vary, 2020, arXiv 2009.00329.
    """
    names, chosen = names_of(domains), select(".*") if trainable is None else trainable
    checked.within("[0, 1]", agreement=agreement)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        own, rest = split(params, chosen)

        def shares(own: Params) -> tuple[dict[str, Array], Any]:
            views, new = look(net, merge(own, rest), stats, batch, key)
            views = ignoring(views, ignore)
            risks = {d: risk_of(views, d, loss) for d in names}
            # This device's share of each mean; gradients are summed over devices, so they are exact under pmap too.
            found = {d: m.total / jnp.maximum(ops.batch_sum(m.count), 1e-30) for d, m in risks.items()}
            return found, (risks, views, new)

        values, pullback, aux = jax.vjp(shares, jax.lax.stop_gradient(own), has_aux=True)
        risks, views, new = jax.lax.stop_gradient(aux)
        one = [{d: jnp.ones_like(v) * (d == of) for d, v in values.items()} for of in names]
        grads = [upcast(ops.batch_sum(pullback(at)[0])) for at in one]
        n = jnp.maximum(jnp.stack([ops.batch_sum(m.count) > 0 for m in risks.values()]).sum(), 1)
        kept = agreed(grads, agreement, n)
        factors = jax.tree.map(lambda m: m / (1e-10 + m.mean()) if rescale else m, kept)
        terms = {}
        for (d, risk), g in zip(risks.items(), grads, strict=True):
            # The value of the term, with the masked gradient in place of its own.
            moved = jax.tree.map(lambda p, g, m: jnp.vdot(m * g, p - jax.lax.stop_gradient(p)), upcast(own), g, factors)
            slope = functools.reduce(operator.add, jax.tree.leaves(moved))
            terms[d] = Mean((risk.total + slope * risk.count) / n, risk.count)
        sizes = sum(m.size for m in jax.tree.leaves(kept))
        told: dict[str, Any] = {f"{name}/kept": sum(m.sum() for m in jax.tree.leaves(kept)) / sizes}
        for d in names:
            view = labelled(views, d)
            told |= {
                f"{d}/{n}": measure(metric, view.output, view.y, counted(view), name=n) for n, metric in metrics.items()
            }
        return terms, Aux(new, told, {d: view.output for d, view in views.items()})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, names, name)
        return complete(net.init, key, batch[names[0]]["x"], given)

    return Objective(run, init, classes=net.classes)


def agreed(grads: Sequence[Any], agreement: float, count: Any = None) -> Any:
    """Where gradients agree in sign: a tree like them of 1 and 0.

    Args:
      grads: trees of arrays, one for each domain.
      agreement: τ; 1 where `|Σ sign(g)| ≥ τ · count`. A gradient of 0 has no sign.
      count: the number of domains; None for that of the gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.and_mask import agreed
      >>> grads = [jnp.array([1.0, 2.0, 0.0]), jnp.array([3.0, 1.0, 1.0]), jnp.array([1.0, -9.0, 1.0])]
      >>> agreed(grads, 1.0).tolist(), agreed(grads, 0.5).tolist()
      ([1.0, 0.0, 0.0], [1.0, 0.0, 1.0])
    """
    least = agreement * (len(grads) if count is None else count) - 1e-4  # sums of signs are whole numbers, τ is rounded

    def one(*of_domains: Array) -> Array:
        signs = functools.reduce(operator.add, map(jnp.sign, of_domains))
        return (jnp.abs(signs) >= least).astype(signs.dtype)

    return jax.tree.map(one, *grads)

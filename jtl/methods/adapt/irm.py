"""Invariant risk minimisation over several labelled domains: one classifier should be optimal in each."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl import losses
from jtl.methods import terms
from jtl.methods.adapt.views import Views
from jtl.methods.adapt.vrex import checked, labelled
from jtl.metrics.accumulate import element_weights, mean
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def irm(
    domains: Sequence[str],
    weight: float | Schedule = 1.0,
    *,
    loss: Callable = losses.cross_entropy,
    name: str = "irm",
) -> Objective:
    """The term `λ Σ_d g_d g'_d` of IRMv1, `g = ∂/∂w mean ℓ(w z, y)` at w = 1 over the even rows, g' over the odd ones.

    The product over two halves is an unbiased estimate of the squared derivative, unlike the square over one batch. It
    may be negative. Added to `adapt(net, labelled=domains)`, this gives the paper's objective, a sum over domains.

    Args:
      domains: the views' names, two or more.
      weight: λ, a number or a function of the step. A common choice is 1 for some hundred steps and then a large
        number. The optimizer should then restart, because its moments are those of another loss: `jtl.optim.restarted`.
      loss: one value per row, as in `adapt`.
      name: name of the term.

    Returns:
      An alignment with the metric `<name>_weight`, the λ of this step.

    Raises:
      ValueError: for fewer than two domains; while tracing, for a domain that is missing, has no labels, or has fewer
        than two rows.

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> domains, weight = ("photo", "sketch"), optax.piecewise_constant_schedule(1.0, {500: 1e3})
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.irm(domains, weight)], labelled=domains)
      >>> step = jtl.make_step(objective, jtl.optim.restarted(optax.adam(1e-3), at=[500]))

    Arjovsky et al., Invariant Risk Minimization, 2019, arXiv 1907.02893.
    """
    terms.checked(weight, name)
    names = checked(domains)

    def term(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[dict, Aux]:
        del params, key
        strength = terms.at_step(weight, step)
        products = []
        for domain in names:
            view = labelled(views, domain)
            z = view.output.astype(jnp.promote_types(view.output.dtype, jnp.float32))
            if len(z) < 2:
                raise ValueError(f"irm: {domain!r} has {len(z)} rows; the two halves need one each at least")
            one = jnp.ones((), z.dtype)
            _, slopes = jax.jvp(lambda w, z=z, y=view.y: loss(w * z, y), (one,), (one,))
            count = element_weights(slopes.shape, view.mask, view.rows.get("weights"))
            count = jnp.ones(slopes.shape) if count is None else count
            halves = [terms.whole(mean(slopes[i::2], count[i::2])) for i in (0, 1)]
            products.append(halves[0] * halves[1])
        penalty = jnp.stack(products).sum()
        return {name: strength * penalty}, Aux(stats, {f"{name}_weight": jnp.asarray(strength, jnp.float32)})

    return Objective(term)

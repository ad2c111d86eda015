"""DALN: the classifier itself is the critic, by the nuclear norms of its predictions on both domains."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl import ops
from jtl.methods.adapt.bnm import bnm_loss
from jtl.methods.adapt.dann import DOMAINS
from jtl.methods.adapt.reversed_head import reversed_logits
from jtl.methods.terms import at_step, checked, weighted
from jtl.methods.views import Views
from jtl.model import Model
from jtl.networks import only_head
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def nwd(
    net: Model, weight: float | Schedule = 1.0, *, reversal: float | Schedule = 1.0, name: str = "nwd"
) -> Objective:
    """The alignment `−λ D`, `D = ‖P_s‖_* / B_s − ‖P_t‖_* / B_t`, with `P = softmax(h(R_ρ f))` of each domain.

    D is the nuclear-norm 1-Wasserstein discrepancy. The classifier h makes it large: its predictions are certain and
    diverse on the source, and not on the target. `R_ρ` multiplies the gradient by −ρ, so the features make it small.
    There is no other critic and nothing else to train.

    Args:
      net: the network that is adapted, with a single head.
      weight: λ, a number or a function of the step; it weighs the term for the head and the features.
      reversal: ρ, likewise, for the features alone. The authors start at 0: `jtl.weight_schedule(1000, gain=1.0)` is
        theirs for the first 1000 steps, and holds 0.46 afterwards, where theirs goes on to 1.
      name: name of the term.

    Returns:
      An alignment with the metric `<name>_discrepancy`, D. With microbatches D is that of each part.

    Raises:
      ValueError: for an invalid weight or reversal, or a network with several heads; while tracing, for a missing view,
        or fewer than two outputs.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.nwd(net)])

    Chen et al., Reusing the Task-specific Classifier as a Discriminator: Discriminator-free Adversarial Domain
    Adaptation, 2022, arXiv 2204.03838.
    """
    checked(weight, name)
    checked(reversal, name, "reversal")
    only_head(net, "nwd")

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = at_step(reversal, step)
        found = reversed_logits(net, "nwd", DOMAINS, params, stats, views, key, strength)
        (source, own), (target, other) = [(ops.gather(z), ops.gather(kept)) for z, kept in found]
        apart = discrepancy(source, target, own, other)
        return {name: weighted(-apart, weight, step)}, Aux(stats, {f"{name}_discrepancy": apart})

    return Objective(alignment)


def discrepancy(
    source: Float[Array, "rows classes"],
    target: Float[Array, "others classes"],
    source_mask: Bool[Array, " rows"] | None = None,
    target_mask: Bool[Array, " others"] | None = None,
) -> Float[Array, ""]:
    """`‖P_s‖_* / B_s − ‖P_t‖_* / B_t` of the softmax of logits, over the rows that count; 0 if a domain has none.

    The gradient of a norm is that of `bnm_loss`, which is finite at equal and zero singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.nwd import discrepancy
      >>> sure, unsure = jnp.array([[99.0, 0.0], [0.0, 99.0]]), jnp.zeros((2, 2))
      >>> round(float(discrepancy(sure, unsure)), 4)
      0.5
    """
    masks = [ops.kept(mask, len(z)) for mask, z in ((source_mask, source), (target_mask, target))]
    there = masks[0].any() & masks[1].any()
    return jnp.where(there, bnm_loss(target, masks[1]) - bnm_loss(source, masks[0]), 0.0)

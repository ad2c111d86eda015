"""Open-set adaptation by backpropagation: the features learn which target rows are of unknown classes."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops, rng
from jtl._tracing import scope
from jtl.methods.adapt.views import Views
from jtl.methods.terms import at_step, checked, from_top
from jtl.methods.views import needs
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.networks import only_head, part
from jtl.objective import Objective
from jtl.ops import reverse_gradient
from jtl.typing import Aux, Key, Params, Schedule, Stats


def osbp(net: Model, weight: float | Schedule = 1.0, *, threshold: float = 0.5, name: str = "unknown") -> Objective:
    """The alignment `mean_target −t log p_u(R_λ f) − (1 − t) log(1 − p_u(R_λ f))`, p_u that of the last class.

    The head pulls every target row's p_u towards t; `R_λ` reverses the gradient, so the features push it to 0 (a known
    class) or to 1. The last class stands for all classes unknown to the source, which has no rows of it.

    Args:
      net: the network that is adapted, with a single head that has one output more than the source has classes.
      weight: λ, a number or a function of the step.
      threshold: t in (0, 1).
      name: name of the term.

    Returns:
      An alignment with the metrics `<name>_rate`, the share of target rows that are predicted as unknown, and
      `<name>_weight`, the λ of this step.

    Raises:
      ValueError: for a threshold outside (0, 1), or a network with several heads; while tracing, for fewer than two
        outputs.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3 + 1))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.osbp(net)])

    Saito et al., Open Set Domain Adaptation by Backpropagation, 2018, arXiv 1804.10427.
    """
    checked(weight, name)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: the probability of the unknown lies in (0, 1)")
    at, head = only_head(net, "osbp")

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = at_step(weight, step)
        needs(views, ("target",), "osbp")
        view = views["target"]
        f = ops.without_masked(head.reads(view.features, view.x), view.mask)
        f = jax.tree.map(lambda a: reverse_gradient(a, strength), f)
        with scope.within(at):
            z, _ = head.apply(part(Variables(params, stats), at), f, train=True, key=rng.stream(key, at))
        if z.ndim != 2 or z.shape[1] < 2:
            raise ValueError(f"osbp: the head returns {z.shape}; give [batch, classes + 1], the last one the unknown")
        found = {
            f"{name}_rate": mean(z.argmax(-1) == z.shape[1] - 1, view.mask),
            f"{name}_weight": jnp.asarray(strength, jnp.float32),
        }
        return {name: mean(undecided(z, threshold), view.mask)}, Aux(stats, found)

    return Objective(alignment)


def undecided(logits: Float[Array, "batch classes"], threshold: float) -> Float[Array, "batch"]:
    """`−t log p_u − (1 − t) log(1 − p_u)` with `p_u = softmax(z)` of the last class, finite for every finite logit.

    Args:
      logits: z, of two classes or more.
      threshold: t.
    """
    z = from_top(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    odds = z[:, -1] - jax.nn.logsumexp(z[:, :-1], axis=-1)
    return threshold * jax.nn.softplus(-odds) + (1 - threshold) * jax.nn.softplus(odds)

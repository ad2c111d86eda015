"""Importance-weighted adversarial nets: a first critic finds the source rows that resemble the target."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops, rng
from jtl.methods.adapt.dann import DOMAINS, dann, default_critic, judge, weighed
from jtl.methods.terms import checked, row_logits
from jtl.methods.views import Views, needs
from jtl.metrics.accumulate import mean
from jtl.metrics.certainty import entropy
from jtl.model import Model, Variables
from jtl.networks import part
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def iwan(
    critic: Model | None = None,
    first: Model | None = None,
    weight: float | Schedule = 1.0,
    *,
    entropy_weight: float = 0.0,
    name: str = "critic",
) -> Objective:
    """The alignment of `dann` with weighted source rows, `w_i = (1 − D(f_i)) / mean_j (1 − D(f_j))`, D a first critic.

    D learns to tell the domains apart on features that are held constant, so `1 − D` is small on source rows unlike any
    target row, such as those of classes that the target lacks. w has no gradient. The paper freezes a source encoder
    and adapts a target encoder; here both domains share one, which also learns from the source's labels.

    Args:
      critic: D_0, a model from the features that it reads to one logit [batch, 1]; None for `heads.mlp(1, (256, 256))`.
      first: D, likewise.
      weight: λ of the reversed gradient, a number or a function of the step.
      entropy_weight: γ of the term `γ mean_target H(p)`; 0 for no such term.
      name: name of the parameters of D_0; those of D are called `<name>_first`.

    Returns:
      An alignment with the metrics of `dann` for both critics.

    Raises:
      ValueError: for an entropy weight that is negative or not finite.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.iwan(weight=jtl.weight_schedule(1000))])

    Zhang et al., Importance Weighted Adversarial Nets for Partial Domain Adaptation, 2018, arXiv 1803.09210.
    """
    checked(weight, name)
    if not 0 <= entropy_weight < float("inf"):
        raise ValueError(f"entropy_weight={entropy_weight}: give a finite number that is not negative")
    own, other = (default_critic() if c is None else c for c in (critic, first))
    earlier = f"{name}_first"

    def run(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        needs(views, DOMAINS, name)
        fixed = {d: jax.lax.stop_gradient(other.reads(views[d].features, views[d].x)) for d in DOMAINS}
        terms, aux = judge(other, earlier, params, stats, views, fixed, rng.stream(key, earlier))
        rows = ops.without_masked(fixed["source"], views["source"].mask)
        logits, _ = other.apply(part(Variables(params, stats), earlier), rows, train=False, key=None)
        w = source_weights(logits[:, 0], views["source"].mask)
        weights = {"source": w, "target": jnp.ones(len(views["target"].output), w.dtype)}
        more, aux_own = weighed(own, weight, name, lambda _: weights)(params, aux.stats, views, key, step)
        terms, found = {**terms, **more}, {**aux.metrics, **aux_own.metrics}
        if entropy_weight:
            z, kept = row_logits(views, "target", "iwan")
            terms[f"{name}_entropy"] = mean(entropy(z), kept).scale(entropy_weight)
        return terms, Aux(aux_own.stats, found)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        for model, at in ((own, name), (other, earlier)):
            given = dann(model, name=at).init(key, views, given)
        return given

    return Objective(run, init)


def source_weights(logits: Float[Array, " rows"], mask: Any = None) -> Float[Array, " rows"]:
    """`(1 − D_i) / mean_j (1 − D_j)`, D = σ(z), over the rows that count, held constant; 0 for the others.

    Args:
      logits: z, the first critic's logits of source rows, positive for "source".
      mask: [rows], or None for all rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.iwan import source_weights
      >>> source_weights(jnp.array([0.0, 99.0])).round(4).tolist()  # the second is surely of the source alone
      [2.0, 0.0]
    """
    z = jax.lax.stop_gradient(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    kept = ops.kept(mask, len(z))
    # Relative to the largest: if D is near 1 for all rows, the ratios of these tiny numbers are still exact.
    score = jnp.where(kept, jax.nn.log_sigmoid(-z), -jnp.inf)
    top = score.max(initial=-jnp.inf)
    axis = ops.batch_axis()
    top = top if axis is None else jax.lax.pmax(top, axis)
    w = jnp.where(kept, jnp.exp(score - jnp.where(jnp.isfinite(top), top, 0.0)[None]), 0.0)
    total, n = ops.batch_sum((w.sum(), kept.sum()))
    return w * n / jnp.maximum(total, jnp.finfo(w.dtype).tiny)

"""Margin disparity discrepancy: a second head disagrees with the classifier on the target; the features prevent it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jtl import heads, losses, ops
from jtl.methods.adapt.beside import named, read_by
from jtl.methods.adapt.dann import DOMAINS
from jtl.methods.adapt.views import Views
from jtl.methods.terms import at_step, checked, from_top
from jtl.methods.views import needs
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.networks import part
from jtl.objective import NONE, Objective, complete
from jtl.ops import reverse_gradient
from jtl.typing import Aux, Key, Params, Schedule, Stats


def mdd(
    adversary: Model | None = None,
    weight: float | Schedule = 1.0,
    *,
    gamma: float = 4.0,
    name: str = "adversary",
) -> Objective:
    """The alignment `γ mean_source −log p'_ŷ + mean_target −log(1 − p'_ŷ)` with `p' = softmax(h'(R_λ f))`.

    ŷ is the class that the classifier predicts for the row. The adversary h' learns to agree with it on the source and
    to disagree on the target; `R_λ` reverses the gradient, so the features learn to make that impossible.

    Args:
      adversary: a model from the features that it reads to as many logits as the classifier has, [batch, classes]; None
        for `heads.mlp(classes, (256,))`.
      weight: λ, a number or a function of the step (`weight_schedule(total_steps)`).
      gamma: γ > 0; the margin is log γ.
      name: name of the adversary's parameters and of its terms.

    Returns:
      An alignment with the metrics `<name>_agreement`, how often both predict the same class for a target row, and
      `<name>_weight`, the λ of this step.

    Raises:
      ValueError: for a γ that is not positive; while tracing, for fewer than two classes, or an adversary whose output
        does not have the shape of the classifier's.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.mdd(weight=0.1)])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> variables.params["adversary"]["out"]["kernel"].shape
      (256, 3)

    Zhang et al., Bridging Theory and Algorithm for Domain Adaptation, 2019, arXiv 1904.05801.
    """
    checked(weight, name)
    if not gamma > 0:
        raise ValueError(f"gamma={gamma}: the weight of the source must be positive")

    def model(views: Views) -> Model:
        needs(views, DOMAINS[:1], name)
        shape = jnp.shape(views["source"].output)
        if len(shape) != 2 or shape[1] < 2:
            raise ValueError(f"mdd: the classifier's output has shape {shape}; it must be [batch, 2 classes or more]")
        return heads.mlp(shape[1], (256,)) if adversary is None else adversary

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        needs(views, DOMAINS, name)
        strength = at_step(weight, step)
        own, read, said = model(views), [], []
        for domain in DOMAINS:
            view = views[domain]
            f, z = ops.without_masked((own.reads(view.features, view.x), view.output), view.mask)
            read.append(reverse_gradient(f, strength))
            said.append(z.argmax(-1))
        logits, new = own.apply(part(Variables(params, stats), name), jnp.concatenate(read), train=True, key=key)
        if logits.shape != (sum(map(len, said)), views["source"].output.shape[1]):
            raise ValueError(
                f"the adversary returns {logits.shape} for {sum(map(len, said))} rows; the classifier has"
                f" {views['source'].output.shape[1]} classes"
            )
        source, target = logits[: len(said[0])], logits[len(said[0]) :]
        masks = [views[domain].mask for domain in DOMAINS]
        terms = {
            f"{name}_source": mean(losses.cross_entropy(source, said[0]), masks[0]).scale(gamma),
            f"{name}_target": mean(disagreement(target, said[1]), masks[1]),
        }
        found = {
            f"{name}_agreement": mean(target.argmax(-1) == said[1], masks[1]),
            f"{name}_weight": jnp.asarray(strength, jnp.float32),
        }
        return terms, Aux({**stats, **({name: new} if new else {})}, found)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        own, view = model(views), views["source"]
        return complete(named(own, name), key, read_by(own, view.features, view.x), given)

    return Objective(alignment, init)


def disagreement(logits: Float[Array, "batch classes"], y: Integer[Array, "batch"]) -> Float[Array, "batch"]:
    """`−log(1 − p_y) = log Σ_c e^{z_c} − log Σ_{c≠y} e^{z_c}`, finite for every finite logit.

    Args:
      logits: z, of two classes or more.
      y: the class to disagree with.
    """
    z = from_top(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    mine = jax.nn.one_hot(y, z.shape[1], dtype=bool)
    # Not the difference of the two logarithms, because a small difference would have no digits left.
    own = jnp.where(mine, z, 0.0).sum(-1)
    return jax.nn.softplus(own - jax.nn.logsumexp(jnp.where(mine, -jnp.inf, z), axis=-1))

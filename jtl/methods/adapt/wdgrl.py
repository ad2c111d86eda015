"""Wasserstein alignment: a critic with a gradient penalty estimates the domains' distance; the features shrink it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops, rng
from jtl.methods.adapt.dann import DOMAINS, default_critic
from jtl.methods.adapt.views import Views
from jtl.methods.terms import at_step, checked
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean, Sums, mean
from jtl.model import Model, Variables
from jtl.networks import joined, part
from jtl.objective import NONE, Objective, complete
from jtl.ops import reverse_gradient
from jtl.typing import Aux, Key, Params, Schedule, Stats


def wdgrl(
    critic: Model | None = None,
    weight: float | Schedule = 1.0,
    *,
    penalty: float = 10.0,
    name: str = "critic",
) -> Objective:
    """The alignment `−mean_source c(R_λ f) + mean_target c(R_λ f) + γ mean_h (‖∇_h c(h)‖ − 1)²`.

    `R_λ` reverses the gradient: the critic maximises the difference of its means, which is the Wasserstein distance if
    the critic's slope is at most 1, and the features minimise it. The penalty is computed at the detached features of
    both domains and at one random point between each pair of a source and a target row; it trains the critic alone. One
    step updates both; the paper updates the critic several times per step, so use `optim.scale` to give it a larger
    learning rate. A batch whose target rows are all masked moves only the source's mean, which is unbounded: this is
    harmless for the last batch of a target, but not for every batch.

    Args:
      critic: a model from features [batch, width] to one number [batch, 1], each row on its own (no BatchNorm); None
        for `heads.mlp(1, (256, 256))`.
      weight: λ, a number or a function of the step.
      penalty: γ > 0.
      name: name of the critic's parameters and of its terms.

    Returns:
      An alignment with the metrics `<name>_distance`, the difference of the means, 0 if a domain has no rows, and
      `<name>_weight`, the λ of this step.

    Raises:
      ValueError: for a penalty that is not positive; for a critic with running statistics or with several outputs.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.wdgrl()])
      >>> batch = {"source": {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}, "target": {"x": jnp.zeros((4, 5))}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, _ = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
      >>> sorted(loss)
      ['critic_penalty', 'critic_source', 'critic_target', 'source']

    Shen et al., Wasserstein Distance Guided Representation Learning for Domain Adaptation, 2018, arXiv 1707.01217.
    """
    checked(weight, name)
    if not penalty > 0:
        raise ValueError(f"penalty={penalty}: without a gradient penalty the critic estimates no distance")
    model = default_critic() if critic is None else critic

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = at_step(weight, step)
        own = part(Variables(params, stats), name)
        keys = rng.stream(key, "dropout"), rng.stream(key, "between")

        def score(f: Array) -> Array:
            z, _ = model.apply(own, f, train=True, key=keys[0])
            if z.shape != (len(f), 1):
                raise ValueError(f"the critic returns {z.shape} for {len(f)} rows; it must give one number each")
            return z[:, 0].astype(jnp.promote_types(z.dtype, jnp.float32))

        needs(views, DOMAINS, name)
        source, target = (views[domain] for domain in DOMAINS)
        f, g = (ops.without_masked(model.reads(v.features, v.x), v.mask) for v in (source, target))
        scores = score(reverse_gradient(jnp.concatenate([f, g]), strength))
        means = {"source": mean(scores[: len(f)], source.mask), "target": mean(scores[len(f) :], target.mask)}
        points, counts = between(jax.lax.stop_gradient(f), jax.lax.stop_gradient(g), source.mask, target.mask, keys[1])
        slopes = jax.grad(lambda h: score(h).sum())(points)
        square = (slopes.astype(scores.dtype) ** 2).sum(-1)
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        terms = {
            f"{name}_source": means["source"].scale(-1.0),
            f"{name}_target": means["target"],
            f"{name}_penalty": mean((norm - 1.0) ** 2, counts).scale(penalty),
        }
        found = {f"{name}_distance": Sums(means, _distance), f"{name}_weight": jnp.asarray(strength, jnp.float32)}
        return terms, Aux(stats, found)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        needs(views, DOMAINS[:1], name)
        shape = jax.eval_shape(model.reads, views["source"].features, views["source"].x)
        if jnp.ndim(shape) != 2:
            raise ValueError(
                f"wdgrl: the critic reads features of shape {jnp.shape(shape)}; they must be [batch, width]"
            )

        def whole(key: Key, x: Any) -> Variables:
            made = joined({name: model.init(rng.stream(key, name), x)})
            if made.stats:
                raise ValueError("wdgrl: the critic has running statistics; the penalty needs one without BatchNorm")
            return made

        return complete(whole, key, jnp.zeros(shape.shape, shape.dtype), given)

    return Objective(alignment, init)


def between(
    f: Float[Array, "n width"], g: Float[Array, "m width"], f_mask: Any, g_mask: Any, key: Key
) -> tuple[Array, Array]:
    """Source rows, target rows and a random point between each pair of a source and a target row; and which count.

    Args:
      f: the source's features.
      g: the target's features.
      f_mask: [n], or None for all rows.
      g_mask: [m], or None for all rows.
      key: key for the random points.
    """
    pairs = min(len(f), len(g))
    u = jax.random.uniform(key, (pairs, 1), f.dtype)
    points = jnp.concatenate([f, g, u * f[:pairs] + (1 - u) * g[:pairs]])
    masks = [ops.kept(f_mask, len(f)), ops.kept(g_mask, len(g))]
    return points, jnp.concatenate([*masks, masks[0][:pairs] & masks[1][:pairs]])


def _distance(means: dict[str, Mean]) -> Array:
    source, target = means["source"], means["target"]
    return jnp.where((source.count > 0) & (target.count > 0), source.value - target.value, 0.0)

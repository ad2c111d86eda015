"""Domain-adversarial training: a critic tells the domains apart, the features learn to prevent it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from jtl import losses, rng
from jtl.methods.adapt.adapt import look
from jtl.methods.adapt.views import Views
from jtl.metrics.accumulate import Mean, mean
from jtl.model import Model, Variables, part
from jtl.ops import reverse_gradient
from jtl.typing import Alignment, Aux, Batch, Key, Objective, Params, Schedule, Stats


def weight_schedule(total_steps: int, gain: float = 10.0) -> Schedule:
    """DANN's λ over a run: `2 / (1 + exp(−gain·p)) − 1` with `p = step / total_steps`, held at 1 after the end.

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818, section 5.2.

    Raises:
      ValueError: where the run has no steps.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps}: the run has at least one step")

    def schedule(step: Any) -> Array:
        p = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
        return 2.0 / (1.0 + jnp.exp(-gain * p)) - 1.0

    return schedule


def dann(critic: Model, weight: float | Schedule = 1.0, *, name: str = "critic") -> Alignment:
    """The alignment `½ mean_source −log D(R_λ f) + ½ mean_target −log(1 − D(R_λ f))`.

    `R_λ` reverses the gradient: the critic D learns at its full rate whatever λ is, the features get −λ times
    its gradient. Both domains weigh the same, whatever their sizes. Give the critic a learning rate of its own
    with `optim.scale`.

    Args:
      critic: from features [batch, dim] to one logit [batch, 1]: that a row is of the source.
      weight: λ, a number or a function of the step (`weight_schedule(total_steps)`).
      name: where the critic's parameters stand; also the name of its terms.

    Returns:
      An alignment with the metric `<name>_accuracy`: how often the critic is right, 0.5 when it is fooled.

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818.
    """

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = weight(step) if callable(weight) else weight
        pooled = jnp.concatenate([views.source.pooled, views.target.pooled])
        return _judge(critic, name, params, stats, views, reverse_gradient(pooled, strength), key)

    return alignment


def alternating(
    backbone: Model,
    head: Model,
    critic: Model,
    loss: Callable = losses.cross_entropy,
    *,
    weight: float | Schedule = 1.0,
    feature: str | Sequence[str] = "pooled",
    name: str = "critic",
) -> tuple[Objective, Objective]:
    """The same game in turns, as two objectives: first the critic learns, then the network against it.

    The critic's turn minimises its loss on features that stand still (train `select("critic/.*")`). The
    network's turn minimises `mean_source ℓ − λ·L_critic` with the critic standing still
    (`select("backbone/.*", "head/.*")`), so it answers the critic of this step, not of the one before.

    Returns:
      The critic's objective and the network's, for `make_step([critic, network], [tx, tx], trainable=[...])`.
    """

    def critic_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        views, _ = look(backbone, head, params, stats, batch, key, feature=feature)
        pooled = jax.lax.stop_gradient(jnp.concatenate([views.source.pooled, views.target.pooled]))
        return _judge(critic, name, params, stats, views, pooled, rng.stream(key, name))

    def network_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = weight(step) if callable(weight) else weight
        views, stats = look(backbone, head, params, stats, batch, key, feature=feature)
        pooled = jnp.concatenate([views.source.pooled, views.target.pooled])
        terms, aux = _judge(critic, name, params, stats, views, pooled, rng.stream(key, name))
        against: dict[str, Mean] = {term: value.scale(-strength) for term, value in terms.items()}
        source = views.source
        return {"source": mean(loss(source.logits, source.y), source.mask), **against}, aux

    return critic_turn, network_turn


def _judge(
    critic: Model, name: str, params: Params, stats: Stats, views: Views, pooled: Array, key: Key
) -> tuple[dict[str, Mean], Aux]:
    """The critic's loss on rows of both domains, each domain's mean counting half."""
    logits, new = critic.apply(part(Variables(params, stats), name), pooled, train=True, key=key)
    if logits.shape != (len(pooled), 1):
        raise ValueError(
            f"the critic returns {logits.shape} for {len(pooled)} rows; it must give one logit each, [batch, 1]"
        )
    n = len(views.source.pooled)
    domains = {"source": (logits[:n, 0], 1.0, views.source.mask), "target": (logits[n:, 0], 0.0, views.target.mask)}
    terms = {f"{name}_{d}": mean(_domain_loss(z, y), mask).scale(0.5) for d, (z, y, mask) in domains.items()}
    right = [mean((z > 0) == (y > 0), mask) for z, y, mask in domains.values()]
    accuracy = Mean(right[0].total + right[1].total, right[0].count + right[1].count)
    return terms, Aux({**stats, **({name: new} if new else {})}, {f"{name}_accuracy": accuracy})


def _domain_loss(logits: Array, label: ArrayLike) -> Array:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.softplus(logits) - label * logits

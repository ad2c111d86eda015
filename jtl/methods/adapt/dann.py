"""Domain-adversarial training: a critic classifies domains, and the features are trained to fool it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from jtl import heads, losses, ops, rng
from jtl.methods.adapt.beside import beside, named, read_by
from jtl.methods.adapt.views import View, Views, look
from jtl.methods.finetune.finetune import judged
from jtl.methods.terms import at_step, checked
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean, Sums, mean
from jtl.model import Model, Variables
from jtl.networks import part
from jtl.objective import NONE, Objective, complete
from jtl.ops import reverse_gradient
from jtl.typing import Aux, Batch, Key, Params, Schedule, Stats

DOMAINS = ("source", "target")


def weight_schedule(total_steps: int, gain: float = 10.0) -> Schedule:
    """DANN's λ over a run: `2 / (1 + exp(−gain·p)) − 1` with `p = step / total_steps`; p is held at 1 after the end.

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818, section 5.2.

    Raises:
      ValueError: if the run has no steps.

    Example:
      >>> import jtl
      >>> round(float(jtl.weight_schedule(1000)(100)), 4)
      0.4621
    """
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps}: the run has at least one step")

    def schedule(step: Any) -> Array:
        p = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
        return 2.0 / (1.0 + jnp.exp(-gain * p)) - 1.0

    return schedule


def dann(critic: Model | None = None, weight: float | Schedule = 1.0, *, name: str = "critic") -> Objective:
    """The alignment `½ mean_source −log D(R_λ f) + ½ mean_target −log(1 − D(R_λ f))`.

    `R_λ` reverses the gradient: the critic D learns at its full rate whatever λ is, and the features get −λ times its
    gradient. Both domains have the same weight, whatever their sizes. Use `optim.scale` to give the critic its own
    learning rate.

    Args:
      critic: a model from the features that it reads, by default `pooled`, to one logit [batch, 1], positive for source
        rows; None for `heads.mlp(1, (256, 256))`. `adapt(...).init` initialises it. If it reads maps, such as those of
        a segmentation network, it may give one logit at each place, [batch, h, w, 1]: the means are then over places.
      weight: λ, a number or a function of the step (`weight_schedule(total_steps)`).
      name: name of the critic's parameters and of its terms.

    Returns:
      An alignment with three metrics: `<name>_accuracy`, how often the critic is right, 0.5 when it is fooled;
      `<name>_a_distance`, the proxy A-distance `2 (1 − 2ε)` with ε the mean of the critic's two error rates, 0 when it
      is fooled or a domain has no rows; and `<name>_weight`, the λ of this step.

    Example:
      >>> import jtl
      >>> alignment = jtl.dann(weight=jtl.weight_schedule(total_steps=1000))

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818.
    """
    return weighed(critic, weight, name)


def weighed(
    critic: Model | None,
    weight: float | Schedule,
    name: str,
    rows: Callable[[Views], Mapping[str, Array]] | None = None,
) -> Objective:
    """The alignment of `dann`, with a weight for each row.

    Args:
      critic: as in `dann`.
      weight: as in `dann`.
      name: as in `dann`.
      rows: a function from the views to the weights of `judge`; None for all ones.
    """
    checked(weight, name)
    model = default_critic() if critic is None else critic

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        needs(views, DOMAINS, name)
        strength = at_step(weight, step)
        read = {d: reverse_gradient(_read(model, views[d]), strength) for d in DOMAINS}
        weights = None if rows is None else rows(views)
        terms, aux = judge(model, name, params, stats, views, read, key, weights, maps=rows is None)
        return terms, aux._replace(metrics={**aux.metrics, f"{name}_weight": jnp.asarray(strength, jnp.float32)})

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        needs(views, DOMAINS[:1], name)
        source = views["source"]
        return complete(named(model, name), key, read_by(model, source.features, source.x), given)

    return Objective(alignment, init)


def alternating(
    net: Model,
    critic: Model,
    loss: Callable = losses.cross_entropy,
    *,
    weight: float | Schedule = 1.0,
    ignore: int | None = None,
    name: str = "critic",
) -> tuple[Objective, Objective]:
    """Alternating adversarial training, as two objectives: first the critic is updated, then the network against it.

    The critic's turn minimises its loss on features that are held constant (train `select("critic/.*")`). The network's
    turn minimises `mean_source ℓ − λ·L_critic` with the critic held constant (`select("backbone/.*", "head/.*")`), so
    it responds to the critic of this step, not of the one before. `ignore` is that of `finetune`.

    Returns:
      The critic's objective and the network's, for `make_step([critic, network], [tx, tx], trainable=[...])`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> first, second = jtl.alternating(net, jtl.heads.mlp(1, (8,)))
    """
    checked(weight, name)

    def critic_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        needs(batch, DOMAINS, name)
        views, _ = look(net, params, stats, batch, key)
        read = {d: jax.lax.stop_gradient(_read(critic, views[d])) for d in DOMAINS}
        return judge(critic, name, params, stats, views, read, rng.stream(key, name), maps=True)

    def network_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        needs(batch, DOMAINS, name)
        strength = at_step(weight, step)
        views, stats = look(net, params, stats, batch, key)
        read = {d: _read(critic, views[d]) for d in DOMAINS}
        terms, aux = judge(critic, name, params, stats, views, read, rng.stream(key, name), maps=True)
        against: dict[str, Mean] = {term: value.scale(-strength) for term, value in terms.items()}
        source = views["source"]
        value, _ = judged(source.output, {**source.rows, "y": source.y, "mask": source.mask}, loss, {}, ignore)
        return {"source": value, **against}, aux

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, DOMAINS[:1], name)
        return complete(beside(net, critic, name), key, batch["source"]["x"], given)

    return Objective(critic_turn, init), Objective(network_turn, init, classes=net.classes)


def default_critic() -> Model:
    """The critic that is used if none is given: two hidden layers of width 256 and one logit."""
    return heads.mlp(1, (256, 256))


def judge(
    critic: Model,
    name: str,
    params: Params,
    stats: Stats,
    views: Views,
    read: Mapping[str, Any],
    key: Key,
    weights: Mapping[str, Array] | None = None,
    *,
    maps: bool = False,
) -> tuple[dict[str, Mean], Aux]:
    """The critic's loss on rows of both domains, each domain's mean counting half, and how often the critic is right.

    Args:
      critic: a model with one logit per row [batch, 1].
      name: name of its parameters and of the terms and metrics.
      params: all parameters.
      stats: all statistics.
      views: the views, for their masks.
      read: the critic's input for `source` and `target`; both go through it in one pass.
      key: key for its dropout.
      weights: weights of the rows of each domain [batch], detached; None for all ones.
      maps: whether the critic may also return a map of logits [batch, height, width, 1], without weights; all places
        of all rows then count the same.

    Raises:
      ValueError: for a critic whose output is not one logit per row, or per place of a map.
    """
    masks = {d: views[d].mask for d in DOMAINS}
    rows = [ops.without_masked(read[d], masks[d]) for d in DOMAINS]
    joint = jnp.concatenate(rows)
    logits, new = critic.apply(part(Variables(params, stats), name), joint, train=True, key=key)
    if logits.ndim not in ((2, 4) if maps else (2,)) or (len(logits), logits.shape[-1]) != (len(joint), 1):
        forms = "[batch, 1]" + (", or a map of them, [batch, height, width, 1]" if maps else "")
        raise ValueError(
            f"the critic returns {logits.shape} for {len(joint)} rows; it must give one logit each, {forms}"
        )
    terms, found = against(logits[..., 0], len(rows[0]), name, masks, weights)
    return terms, Aux({**stats, **({name: new} if new else {})}, found)


def against(
    logits: Array, sources: int, name: str, masks: Mapping[str, Any], weights: Mapping[str, Array] | None = None
) -> tuple[dict[str, Mean], dict[str, Any]]:
    """The loss of a critic's logits against the domains of their rows, as two terms, and how often they are right.

    Args:
      logits: one for each row [batch], or a map of them for each, those of the source first.
      sources: the number of the source's rows.
      name: as in `judge`.
      masks: mask of each domain.
      weights: as in `judge`.
    """
    domains = {"source": (logits[:sources], 1.0), "target": (logits[sources:], 0.0)}
    terms, right = {}, {}
    for d, (z, y) in domains.items():
        values = domain_loss(z, y)
        terms[f"{name}_{d}"] = mean(values if weights is None else values * weights[d], masks[d]).scale(0.5)
        right[d] = mean((z > 0) == (y > 0), masks[d])
    accuracy = Mean(sum(m.total for m in right.values()), sum(m.count for m in right.values()))
    return terms, {f"{name}_accuracy": accuracy, f"{name}_a_distance": Sums(right, _a_distance)}


def _a_distance(right: dict[str, Mean]) -> Array:
    source, target = right["source"], right["target"]
    seen = (source.count > 0) & (target.count > 0)
    return jnp.where(seen, 2.0 * (source.value + target.value - 1.0), 0.0)


def _read(critic: Model, view: View) -> Any:
    return critic.reads(view.features, view.x)


def domain_loss(logits: Array, label: ArrayLike) -> Array:
    """`−y log σ(z) − (1 − y) log(1 − σ(z))`, one value per logit."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.softplus(logits) - label * logits

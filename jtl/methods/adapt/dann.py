"""Domain-adversarial training: a critic classifies domains, and the features are trained against it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from jtl import losses, rng
from jtl.methods.adapt.views import View, Views, look
from jtl.methods.finetune.finetune import judged
from jtl.metrics.accumulate import Mean, mean
from jtl.model import Model, Variables
from jtl.networks import joined, part
from jtl.objective import NONE, Objective, complete
from jtl.ops import reverse_gradient
from jtl.typing import Aux, Batch, Key, Params, Schedule, Stats


def weight_schedule(total_steps: int, gain: float = 10.0) -> Schedule:
    """DANN's λ over a run: `2 / (1 + exp(−gain·p)) − 1` with `p = step / total_steps`, held at 1 after the end.

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818, section 5.2.

    Raises:
      ValueError: where the run has no steps.

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


def dann(critic: Model, weight: float | Schedule = 1.0, *, name: str = "critic") -> Objective:
    """The alignment `½ mean_source −log D(R_λ f) + ½ mean_target −log(1 − D(R_λ f))`.

    `R_λ` reverses the gradient: the critic D learns at its full rate whatever λ is, the features get −λ times
    its gradient. Both domains weigh the same, whatever their sizes. Give the critic a learning rate of its own
    with `optim.scale`.

    Args:
      critic: from the features that it reads, `pooled` unless it says otherwise, to one logit [batch, 1]: that a row is
        of the source. `adapt(...).init` initialises it.
      weight: λ, a number or a function of the step (`weight_schedule(total_steps)`).
      name: where the critic's parameters stand; also the name of its terms.

    Returns:
      An alignment with the metric `<name>_accuracy`: how often the critic is right, 0.5 when it is fooled.

    Example:
      >>> import jtl
      >>> alignment = jtl.dann(jtl.heads.mlp(1, (64,)), jtl.weight_schedule(total_steps=1000))

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818.
    """

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = weight(step) if callable(weight) else weight
        return _judge(critic, name, params, stats, views, key, lambda f: reverse_gradient(f, strength))

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        return complete(lambda key, read: _named(critic, name, key, read), key, _zeros(critic, views["source"]), given)

    return Objective(alignment, init)


def alternating(
    net: Model,
    critic: Model,
    loss: Callable = losses.cross_entropy,
    *,
    weight: float | Schedule = 1.0,
    name: str = "critic",
) -> tuple[Objective, Objective]:
    """Alternating adversarial training, as two objectives: first the critic is updated, then the network against it.

    The critic's turn minimises its loss on features that are held constant (train `select("critic/.*")`). The
    network's turn minimises `mean_source ℓ − λ·L_critic` with the critic held constant
    (`select("backbone/.*", "head/.*")`), so it answers the critic of this step, not of the one before.

    Returns:
      The critic's objective and the network's, for `make_step([critic, network], [tx, tx], trainable=[...])`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> first, second = jtl.alternating(net, jtl.heads.mlp(1, (8,)))
    """

    def critic_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        views, _ = look(net, params, stats, batch, key)
        return _judge(critic, name, params, stats, views, rng.stream(key, name), jax.lax.stop_gradient)

    def network_turn(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        strength = weight(step) if callable(weight) else weight
        views, stats = look(net, params, stats, batch, key)
        terms, aux = _judge(critic, name, params, stats, views, rng.stream(key, name), lambda f: f)
        against: dict[str, Mean] = {term: value.scale(-strength) for term, value in terms.items()}
        source = views["source"]
        value, _ = judged(source.output, {"y": source.y, "mask": source.mask}, loss, {})
        return {"source": value, **against}, aux

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        def whole(key: Key, x: Any) -> Variables:
            made = net.init(key, x)
            features = jax.eval_shape(lambda v, x: net.apply(v, x, train=False)[0].features, made, x)
            read = _zeros(critic, View(features, None, x, None, None, {}))
            own = _named(critic, name, key, read)
            return Variables({**made.params, **own.params}, {**made.stats, **own.stats})

        return complete(whole, key, batch["source"]["x"], given)

    return Objective(critic_turn, init), Objective(network_turn, init)


def _named(critic: Model, name: str, key: Key, read: Any) -> Variables:
    return joined({name: critic.init(rng.stream(key, name), read)})


def _zeros(critic: Model, view: View) -> Any:
    """Zeros in the shapes of the critic's input, to initialise on."""
    shapes = jax.eval_shape(critic.reads, view.features, view.x)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def _judge(
    critic: Model, name: str, params: Params, stats: Stats, views: Views, key: Key, through: Callable[[Array], Array]
) -> tuple[dict[str, Mean], Aux]:
    """The critic's loss on rows of both domains, each domain's mean counting half."""
    source, target = views["source"], views["target"]
    read = [critic.reads(view.features, view.x) for view in (source, target)]
    joint = through(jnp.concatenate(read))
    logits, new = critic.apply(part(Variables(params, stats), name), joint, train=True, key=key)
    if logits.shape != (len(joint), 1):
        raise ValueError(
            f"the critic returns {logits.shape} for {len(joint)} rows; it must give one logit each, [batch, 1]"
        )
    n = len(read[0])
    domains = {"source": (logits[:n, 0], 1.0, source.mask), "target": (logits[n:, 0], 0.0, target.mask)}
    terms = {f"{name}_{d}": mean(_domain_loss(z, y), mask).scale(0.5) for d, (z, y, mask) in domains.items()}
    right = [mean((z > 0) == (y > 0), mask) for z, y, mask in domains.values()]
    accuracy = Mean(right[0].total + right[1].total, right[0].count + right[1].count)
    return terms, Aux({**stats, **({name: new} if new else {})}, {f"{name}_accuracy": accuracy})


def _domain_loss(logits: Array, label: ArrayLike) -> Array:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.softplus(logits) - label * logits

"""Gradually vanishing bridges: adversarial training of predictions, with a part for the domain that shrinks to 0."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import heads, ops
from jtl.methods.adapt.beside import named
from jtl.methods.adapt.dann import DOMAINS, against
from jtl.methods.adapt.views import Views
from jtl.methods.terms import at_step, checked
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean, mean
from jtl.metrics.certainty import entropy
from jtl.model import Model, Variables
from jtl.networks import only_head, part
from jtl.objective import NONE, Objective, complete
from jtl.ops import reverse_gradient
from jtl.typing import Aux, Key, Params, Schedule, Stats


def gvb(
    net: Model,
    critic: Model | None = None,
    weight: float | Schedule = 1.0,
    *,
    bridge: float | Schedule = 1.0,
    critic_bridge: float | Schedule = 1.0,
    name: str = "critic",
) -> Objective:
    """The alignment `½ Σ_domains mean w_i ℓ_i + μ_g mean |γ(f_i)| + μ_d mean |σ(p_i)|` (GVB-GD).

    The head `z = W f + b − γ(f)` has a bridge γ for what is of a domain alone, and so has the critic: it returns
    `(D, σ)` for `p = softmax(R_λ z)`, and ℓ_i is the loss of `dann` of the logit `D − σ`. The norms make both bridges
    vanish; they are means over the rows of both domains, and of γ over the classes too. A row has the weight
    `w_i = e^(−H(p_i))`, divided by its domain's mean over the batch, so confident rows count more. `R_λ` reverses every
    gradient that passes z on its way to the features: of the critic, of its bridge, and of w, whose mean is constant.

    Predictions need nothing further, because `heads.bridged` subtracts the bridge itself, in evaluation too.

    Args:
      net: the network that is adapted, `jtl.network(backbone=..., head=jtl.heads.bridged(classes))`.
      critic: a model from `classes` probabilities to D and σ, [batch, 2], D positive for source rows; None for
        `heads.mlp(2, (256, 256))`. The authors have two hidden layers of 1024 with dropout.
      weight: λ, a number or a function of the step (`weight_schedule(total_steps)`).
      bridge: μ_g, a number or a function of the step.
      critic_bridge: μ_d, likewise.
      name: name of the critic's parameters and of its terms.

    Returns:
      An alignment with the terms `<name>_source`, `<name>_target`, `<name>_bridge` and `<head>_bridge`, and the metrics
      of `dann`. With microbatches the means of weights are those of each part.

    Raises:
      ValueError: for a weight that is negative or not finite, or a network with several heads; at init, for a head
        without a bridge; while tracing, for outputs that are not [batch, classes], or a critic without two outputs.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.bridged(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.gvb(net, weight=jtl.weight_schedule(1000))])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> sorted(variables.params["head"]), variables.params["critic"]["out"]["kernel"].shape
      (['bridge', 'out'], (256, 2))

    Cui et al., Gradually Vanishing Bridge for Adversarial Domain Adaptation, 2020, arXiv 2003.13183.
    """
    for option, value in (("weight", weight), ("bridge", bridge), ("critic_bridge", critic_bridge)):
        checked(value, name, option)
    at, head = only_head(net, "gvb")
    model = heads.mlp(2, (256, 256)) if critic is None else critic

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        needs(views, DOMAINS, name)
        variables, strength = Variables(params, stats), at_step(weight, step)
        p, w, gamma = {}, {}, {}
        for d in DOMAINS:
            view = views[d]
            if jnp.ndim(view.output) != 2:
                raise ValueError(f"gvb: the output of {d!r} has shape {jnp.shape(view.output)}; give [batch, classes]")
            f, z = ops.without_masked((head.reads(view.features, view.x), view.output), view.mask)
            z = reverse_gradient(z.astype(jnp.promote_types(z.dtype, jnp.float32)), strength)
            p[d], w[d] = jax.nn.softmax(z), certainty_weights(z, view.mask)
            gamma[d] = bridge_of(head, part(variables, at), f)
        joint = jnp.concatenate([p[d] for d in DOMAINS])
        out, new = model.apply(part(variables, name), joint, train=True, key=key)
        if out.shape != (len(joint), 2):
            raise ValueError(f"gvb: the critic returns {out.shape} for {len(joint)} rows; give [batch, 2], D and σ")
        out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        n, masks = len(p["source"]), {d: views[d].mask for d in DOMAINS}
        terms, found = against(out[:, 0] - out[:, 1], n, name, masks, w)
        sigma = {"source": out[:n, 1:], "target": out[n:, 1:]}
        terms[f"{name}_bridge"] = _size(sigma, masks).scale(at_step(critic_bridge, step))
        terms[f"{at}_bridge"] = _size(gamma, masks).scale(at_step(bridge, step))
        found[f"{name}_weight"] = jnp.asarray(strength, jnp.float32)
        return terms, Aux({**stats, **({name: new} if new else {})}, found)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        needs(views, DOMAINS[:1], name)
        own = sorted(given.params.get(at, {}))
        if own != ["bridge", "out"]:
            raise ValueError(f"gvb: the head {at!r} has the parameters {own}; give it jtl.heads.bridged(classes)")
        z = views["source"].output
        return complete(named(model, name), key, jnp.zeros(z.shape, jnp.promote_types(z.dtype, jnp.float32)), given)

    return Objective(alignment, init)


def bridge_of(head: Model, own: Variables, features: Any) -> Array:
    """The bridge γ(f) of `heads.bridged`, [batch, classes].

    Args:
      head: the head.
      own: its variables.
      features: what it reads.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> from jtl.methods.adapt.gvb import bridge_of
      >>> layer = {"kernel": jnp.array([[2.0]]), "bias": jnp.array([1.0])}
      >>> own = jtl.Variables({"bridge": layer, "out": layer}, {})
      >>> bridge_of(jtl.heads.bridged(1), own, jnp.array([[3.0]])).tolist()
      [[7.0]]
    """
    # The head returns out(f) − γ(f), and out(f) is 0 here.
    none = {**own.params, "out": jax.tree.map(jnp.zeros_like, own.params["out"])}
    return -head.apply(own._replace(params=none), features, train=False)[0]


def certainty_weights(logits: Float[Array, "batch classes"], mask: Any = None) -> Float[Array, "batch"]:
    """`w_i = e^(−H(p_i)) / mean_j e^(−H(p_j))` over the rows that count, the mean held constant; 0 for the others.

    Args:
      logits: of one domain's rows; p is their softmax.
      mask: [batch], or None for all rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.gvb import certainty_weights
      >>> [round(float(w), 3) for w in certainty_weights(jnp.array([[99.0, 0.0], [0.0, 0.0]]))]
      [1.333, 0.667]
    """
    raw = jnp.exp(-entropy(logits))
    count = jnp.ones_like(raw) if mask is None else jnp.asarray(mask).astype(raw.dtype)
    raw = jnp.where(count > 0, raw, 0.0)
    total, n = ops.batch_sum((jax.lax.stop_gradient(raw * count).sum(), count.sum()))
    return raw * n / jnp.maximum(total, jnp.finfo(raw.dtype).tiny)


def _size(values: dict[str, Array], masks: dict[str, Any]) -> Mean:
    """The mean absolute value over the rows of both domains."""
    each = [
        mean(jnp.abs(values[d].astype(jnp.promote_types(values[d].dtype, jnp.float32))).mean(1), masks[d])
        for d in DOMAINS
    ]
    return Mean(sum(m.total for m in each), sum(m.count for m in each))

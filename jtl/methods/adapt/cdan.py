"""Conditional adversarial alignment: the critic sees the features together with the classifier's predictions."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops, rng
from jtl.methods.adapt.dann import DOMAINS, default_critic, judge
from jtl.methods.adapt.views import View, Views
from jtl.methods.terms import at_step, checked
from jtl.methods.views import needs
from jtl.model import Model, Variables
from jtl.networks import joined
from jtl.objective import NONE, Objective, complete
from jtl.ops import reverse_gradient
from jtl.typing import Aux, Key, Params, Schedule, Stats

LARGEST = 4096
"""The largest number of feature-class products that the critic receives without a randomised map."""
RANDOM = 1024
"""The output size of the randomised map, which is used above that number."""


def cdan(
    critic: Model | None = None,
    weight: float | Schedule = 1.0,
    *,
    entropy: bool = False,
    randomised: int | None = None,
    name: str = "critic",
) -> Objective:
    """The alignment of `dann` with the critic on `f ⊗ g`: features times class probabilities, g = softmax(output).

    The gradient is reversed through f and stops at g. The randomised map `(R_f f) ⊙ (R_g g) / √d` with fixed Gaussian
    R_f and R_g preserves inner products in expectation, with d numbers per row. With `entropy` (CDAN+E) a row has the
    weight `1 + e^(−H(g))`, detached and divided by its domain's mean over the batch. Confident rows then count more,
    and both domains count the same.

    Args:
      critic: a model from `features · classes` numbers, or d, to one logit [batch, 1], positive for source rows. Its
        `reads` determines f; None for `heads.mlp(1, (256, 256))`.
      weight: λ, a number or a function of the step (`weight_schedule(total_steps)`).
      entropy: whether to weight rows by the classifier's confidence. With microbatches the means are those of each
        part.
      randomised: d; None for 1024 if `features · classes` exceeds 4096, and for the full product otherwise.
      name: name of the critic's parameters, of its terms and, as `<name>_map`, of R_f and R_g in the statistics.

    Returns:
      An alignment with the metrics of `dann`.

    Raises:
      ValueError: for a d below 1; while tracing, for features or outputs that are not [batch, width], or outputs of
        one class.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.cdan(jtl.heads.mlp(1, (4,)))])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> variables.params["critic"]["hidden1"]["kernel"].shape
      (24, 4)

    Long et al., Conditional Adversarial Domain Adaptation, 2018, arXiv 1705.10667.
    """
    checked(weight, name)
    if randomised is not None and randomised < 1:
        raise ValueError(f"randomised={randomised}: the size of the map is at least 1")
    model = default_critic() if critic is None else critic

    def alignment(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        needs(views, DOMAINS, name)
        strength = at_step(weight, step)
        read, weights = {}, {}
        for domain in DOMAINS:
            f, g = _parts(model, views[domain])
            f = reverse_gradient(f, strength)
            read[domain] = together(f, g, stats.get(f"{name}_map"))
            weights[domain] = entropy_weights(g, views[domain].mask)
        terms, aux = judge(model, name, params, stats, views, read, key, weights if entropy else None)
        return terms, aux._replace(metrics={**aux.metrics, f"{name}_weight": jnp.asarray(strength, jnp.float32)})

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        needs(views, DOMAINS[:1], name)
        f, g = jax.eval_shape(lambda view: _parts(model, view), views["source"])
        size = f.shape[1] * g.shape[1]
        d = RANDOM if randomised is None and size > LARGEST else randomised

        def whole(key: Key, x: Any) -> Variables:
            own = joined({name: model.init(rng.stream(key, name), x)})
            if d is None:
                return own
            keys = jax.random.split(rng.stream(key, f"{name}_map"))
            fixed = {
                "features": jax.random.normal(keys[0], (f.shape[1], d)),
                "classes": jax.random.normal(keys[1], (g.shape[1], d)),
            }
            return Variables(own.params, {**own.stats, f"{name}_map": fixed})

        return complete(whole, key, jnp.zeros((f.shape[0], d or size), jnp.result_type(f, g)), given)

    return Objective(alignment, init)


def together(f: Float[Array, "batch features"], g: Float[Array, "batch classes"], fixed: Any = None) -> Array:
    """`f ⊗ g` as one vector per row, [batch, features · classes], or with a map `(R_f f) ⊙ (R_g g) / √d`, [batch, d].

    Args:
      f: features.
      g: class probabilities.
      fixed: None, or R_f under `features` [features, d] and R_g under `classes` [classes, d].
    """
    if fixed is None:
        return (f[:, :, None] * g[:, None, :]).reshape(len(f), -1)
    r_f, r_g = (jax.lax.stop_gradient(fixed[n]).astype(jnp.result_type(f, g)) for n in ("features", "classes"))
    return (f @ r_f) * (g @ r_g) / jnp.sqrt(jnp.asarray(r_f.shape[1], r_f.dtype))


def entropy_weights(g: Float[Array, "batch classes"], mask: Any = None) -> Float[Array, "batch"]:
    """`w_i = (1 + e^(−H(g_i))) / mean_j (1 + e^(−H(g_j)))` over the rows that count, detached; 0 for the others.

    Args:
      g: class probabilities of one domain's rows.
      mask: [batch], or None for all rows.
    """
    g = jax.lax.stop_gradient(g)
    count = jnp.ones(len(g), g.dtype) if mask is None else jnp.asarray(mask).astype(g.dtype)
    raw = 1.0 + jnp.exp(-jax.scipy.special.entr(g).sum(-1))
    raw = jnp.where(count > 0, raw, 0.0)
    total, n = ops.batch_sum(((raw * count).sum(), count.sum()))
    return raw * n / jnp.maximum(total, jnp.finfo(g.dtype).tiny)


def _parts(critic: Model, view: View) -> tuple[Array, Array]:
    """Features, and detached class probabilities, of one view."""
    f, z = critic.reads(view.features, view.x), view.output
    if jnp.ndim(f) != 2 or jnp.ndim(z) != 2 or z.shape[1] < 2:
        raise ValueError(
            f"cdan: features of shape {jnp.shape(f)} and outputs of shape {jnp.shape(z)}; both must be [batch, width],"
            " with two classes or more"
        )
    f, z = ops.without_masked((f, z), view.mask)
    return f, jax.nn.softmax(jax.lax.stop_gradient(z.astype(jnp.promote_types(z.dtype, jnp.float32))))

"""Mixup across domains: mixtures of a source and a target row get mixtures of their labels."""

from typing import Any

import jax
import jax.numpy as jnp

from jtl import losses, ops, rng
from jtl.methods.adapt.dann import DOMAINS
from jtl.methods.adapt.own_norms import refuse_own
from jtl.methods.terms import checked, row_logits, view_of, weighted
from jtl.methods.views import Views, classes_of_rows
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def domain_mixup(
    net: Model, weight: float | Schedule = 1.0, *, alpha: float, shared: bool = False, name: str = "domain_mixup"
) -> Objective:
    """The alignment `λ mean_i CE(net(b_i x_s,i + (1 − b_i) x_t,i), b_i y_s,i + (1 − b_i) p_t,i)`, `b_i ~ Beta(α, α)`.

    p_t,i is the network's prediction for row i of the target, held constant. Row i of the source is mixed with row i of
    the target. The mixed rows have a forward pass of their own, which does not update running statistics.

    Args:
      net: the network that `adapt` trains, with logits [batch, classes]; its input is one floating-point array.
      weight: λ, a number or a function of the step.
      alpha: α > 0; small values keep mixtures close to one of the domains, 1 is uniform.
      shared: whether all rows of a step share one b.
      name: name of the term.

    Returns:
      An alignment for `adapt`, for a source with integer labels; rows with negative labels do not count.

    Raises:
      ValueError: for a weight or α out of range; while tracing, for a missing view, domains that differ in size, labels
        or inputs of another form, or a domain in `own_norms`.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.domain_mixup(net, alpha=1.0)])

    Yan et al., Improve Unsupervised Domain Adaptation with Mixup Training, 2020, arXiv 2001.00677.
    """
    checked(weight, name)
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha={alpha}: give a positive number")

    def run(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        refuse_own(params, DOMAINS, name)
        source, target = (view_of(views, d, name) for d in DOMAINS)
        y = classes_of_rows(source.y, name)
        z, kept = row_logits(views, "target", name)
        _, counts = row_logits(views, "source", name)
        xs, xt = source.x, target.x
        if not isinstance(xs, jax.Array | jnp.ndarray) and not hasattr(xs, "dtype"):
            raise ValueError(f"{name}: inputs are a tree of {jax.tree.map(jnp.shape, xs)}; it mixes one array")
        xs, xt = jnp.asarray(xs), jnp.asarray(xt)
        if xs.shape != xt.shape or not jnp.issubdtype(xs.dtype, jnp.floating):
            raise ValueError(
                f"{name}: inputs of shapes {xs.shape} and {xt.shape}, {xs.dtype}: give floats, and as many rows of both"
            )
        kept = kept & counts & (jnp.asarray(y) >= 0)
        draw = rng.stream(key, name)
        size = () if shared else (len(xs),)
        b = jax.random.beta(draw, alpha, alpha, size, jnp.float32)
        b = jnp.broadcast_to(ops.gather(b[None])[0], (len(xs),)) if shared else b
        xs, xt = (ops.without_masked(x, kept) for x in (xs, xt))
        share = b.reshape((-1,) + (1,) * (xs.ndim - 1)).astype(xs.dtype)
        out, _ = net.apply(Variables(params, stats), share * xs + (1 - share) * xt, train=True, key=draw)
        p = jax.lax.stop_gradient(jax.nn.softmax(z))
        wanted = b[:, None] * jax.nn.one_hot(y, z.shape[1]) + (1 - b)[:, None] * p
        mixed = jnp.where(kept[:, None], out.output.astype(z.dtype), 0.0)
        # A label beyond the classes gives NaN, not a mixture without its class.
        values = jnp.where(y < z.shape[1], losses.cross_entropy(mixed, wanted), jnp.nan)
        value = mean(values, kept, source.rows.get("weights"))
        return {name: weighted(value, weight, step)}, Aux(stats)

    return Objective(run)

"""Fishr: makes the variances of the head's gradients equal in several labelled domains."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import checked, losses, ops
from jtl.methods import terms
from jtl.methods.adapt.views import View, Views
from jtl.methods.adapt.vrex import checked as names_of
from jtl.methods.adapt.vrex import counted, labelled
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables
from jtl.networks import part, parts_of
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def fishr(
    net: Model,
    domains: Sequence[str],
    weight: float | Schedule = 1000.0,
    *,
    momentum: float = 0.95,
    loss: Callable = losses.cross_entropy,
    head: str = "head",
    name: str = "fishr",
) -> Objective:
    """The term `λ (1/D) Σ_d ‖s_d − (1/D) Σ_e s_e‖² / P` over labelled domains d, `s_d ← v_d + γ s_d`.

    `g_i = ∂ℓ_i/∂ω` is the gradient of row i with respect to the P parameters ω of the head, and
    `v_d = mean_i (g_i − mean_j g_j)²` its variance over the rows of domain d, one number per parameter. The statistics
    keep s. Its part from earlier steps is held constant, and with γ = 0 the penalty uses this batch alone. As in the
    authors' code, gradients are centred, variances divide by the number of rows, the squares are averaged over the
    parameters (the paper sums them), and s is a sum and not an average, so it grows to `v/(1 − γ)`.

    Use it in `adapt(net, labelled=domains)`. A domain without rows in a batch is left out, and its s does not change.
    With microbatches, s is updated once per part. The gradients are those of the head in evaluation mode, without
    dropout. They need memory for rows × P numbers.

    Args:
      net: the network that `adapt` trains.
      domains: the views' names, two or more.
      weight: λ, a number or a function of the step. The authors use 0 for 1,500 steps, during which s is updated too,
        and 1000 afterwards. The optimizer then restarts: `jtl.optim.restarted`. They add the penalty to the mean of the
        domains' losses, whereas `adapt` sums these losses, so their λ corresponds to D times as much here.
      momentum: γ, in [0, 1).
      loss: one value per row, as in `adapt`; if a row has several values, its loss is their mean.
      head: the name of the head whose gradients are used.
      name: name of the term, and of s in the statistics.

    Returns:
      An alignment with the metric `<name>_weight`, the λ of this step.

    Raises:
      ValueError: for fewer than two domains, a weight or momentum out of range, or a network without this head; at
        init, if `name` is taken; while tracing, for a domain that is missing or has no labels.

    Example:
      >>> import jax, jax.numpy as jnp, jtl, optax
      >>> net, domains = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3)), ("photo", "sketch")
      >>> weight = optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(2e3)], [1500])
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.fishr(net, domains, weight)], labelled=domains)
      >>> step = jtl.make_step(objective, jtl.optim.restarted(optax.adam(1e-3), at=[1500]))
      >>> rows = {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> objective.init(jax.random.key(0), {"photo": rows, "sketch": rows}).stats["fishr"].shape
      (2, 27)

    Ramé et al., Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization, 2021, arXiv 2109.02934.
    """
    terms.checked(weight, name)
    checked.within("[0, 1)", momentum=momentum)
    names, parts = names_of(domains), parts_of(net)
    if head not in parts or head == "backbone":
        raise ValueError(f"{name}: the network has no head {head!r}, only {sorted({*parts} - {'backbone'})}")

    def term(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[dict, Aux]:
        del key
        strength, own = terms.at_step(weight, step), part(Variables(params, stats), head)
        found = [_variance(parts[head], own, labelled(views, d), loss) for d in names]
        v, seen = jnp.stack([v for v, _ in found]), jnp.stack([there for _, there in found])[:, None]
        if momentum:
            s = v + momentum * stats[name].astype(v.dtype)
            kept = jnp.where(seen, jax.lax.stop_gradient(s).astype(stats[name].dtype), stats[name])
            stats = {**stats, name: kept}
        else:
            s = v
        n = jnp.maximum(seen.sum(), 1)
        apart = jnp.where(seen, s - jnp.where(seen, s, 0.0).sum(0, keepdims=True) / n, 0.0)
        penalty = (apart**2).mean(1).sum() / n
        return {name: strength * penalty}, Aux(stats, {f"{name}_weight": jnp.asarray(strength, jnp.float32)})

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key, views
        if not momentum:
            return given
        shape = (len(names), sum(leaf.size for leaf in jax.tree.leaves(given.params[head])))
        return terms.kept_or_new(given, name, jnp.zeros(shape))

    return Objective(term, init)


def _variance(model: Model, own: Variables, view: View, loss: Callable) -> tuple[Array, Array]:
    """The variance of each parameter's gradient over the rows of all devices, and whether any row counts."""
    weights = counted(view)
    weights = jnp.ones(jnp.shape(view.y)[:1]) if weights is None else weights.astype(jnp.float32)
    of_rows = weights.sum(tuple(range(1, weights.ndim)))
    read = ops.without_masked(model.reads(view.features, view.x), of_rows)
    g = row_gradients(model, own, read, view.y, loss, weights)
    share = of_rows.astype(g.dtype)[:, None]
    g = jnp.where(share > 0, g, 0.0)
    count = ops.batch_sum(share.sum())
    least = jnp.maximum(count, 1e-30)
    middle = ops.batch_sum((share * g).sum(0)) / least
    return ops.batch_sum((share * (g - middle[None]) ** 2).sum(0)) / least, count > 0


def row_gradients(
    model: Model, variables: Variables, x: Any, y: Any, loss: Callable, weights: Any = None
) -> Float[Array, "rows parameters"]:
    """The gradient of each row's loss, `∂ℓ(model(x_i), y_i)/∂ω`, with all parameters concatenated, in evaluation mode.

    Args:
      model: a model from x to outputs whose rows do not depend on each other.
      variables: the variables of the model.
      x: a tree of arrays [rows, ...].
      y: labels, a tree of arrays [rows, ...].
      loss: one value per row, or several, whose mean is the row's loss.
      weights: None, or weights whose axes are the leading axes of y.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.methods.adapt.fishr import row_gradients
      >>> head, x, y = jtl.heads.linear(2, zero_init=True), jnp.array([[1.0], [2.0]]), jnp.array([0, 1])
      >>> row_gradients(head, head.init(jax.random.key(0), x), x, y, jtl.losses.cross_entropy).tolist()
      [[-0.5, 0.5, -0.5, 0.5], [0.5, -0.5, 1.0, -1.0]]
    """

    def of_row(params: Params, *row: Any) -> Array:
        x, y, w = jax.tree.map(lambda a: a[None], row)
        z, _ = model.apply(Variables(params, variables.stats), x, train=False)
        return mean(loss(z, y), weights=w).value

    rows = (x, y, weights)
    g = jax.vmap(jax.grad(of_row), in_axes=(None, 0, 0, 0))(variables.params, *rows)
    count = jnp.shape(jax.tree.leaves(y)[0])[0]
    flat = [leaf.reshape(count, -1) for leaf in jax.tree.leaves(g)]
    return jnp.concatenate(flat, 1).astype(jnp.promote_types(flat[0].dtype, jnp.float32))

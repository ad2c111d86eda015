"""Distillation from a teacher network; with the network's own start as teacher it is learning without forgetting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl import ops
from jtl.methods.terms import checked, weighted, with_own
from jtl.methods.views import Views
from jtl.metrics.accumulate import Mean, mean
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective
from jtl.reads import Masked, positions
from jtl.typing import Aux, Key, Params, Schedule, Stats


def distillation(
    teacher: Model,
    variables: Variables,
    weight: float | Schedule = 1.0,
    *,
    temperature: float = 2.0,
    head: str | None = None,
    loss: Callable[[Array, Array], Array] | None = None,
    name: str = "distillation",
) -> Objective:
    """The term `λ T² mean_i KL(softmax(t_i/T) ‖ softmax(z_i/T))` of the teacher's logits t and the network's z.

    The teacher runs in evaluation mode and gets no gradient; its variables are kept in the statistics under `name`.
    Learning without forgetting is this term on the head of the old classes, with the network before training as
    teacher, `distillation(net, start, head="old")`, plus a loss on the head of the new classes. Logits have classes on
    their last axis: [batch, classes], or [batch, positions, classes], for which padding does not count. The outputs for
    spans, multiple labels and regression have no such axis: use `loss`.

    Args:
      teacher: `jtl.network(backbone=..., head=...)` with the same classes.
      variables: the teacher's variables.
      weight: λ, a number or a function of the step.
      temperature: T > 0; the factor T² makes the size of the gradient independent of T.
      head: which head to use if network and teacher have several.
      loss: `loss(z, t)`, one value per example or element, instead of `T² KL`; for instance `jtl.losses.mse` for
        regression. `temperature` is then ignored.
      name: name of the term.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt`; all rows of all views count.

    Raises:
      ValueError: for a weight that is negative or not finite, a temperature that is not positive; at init, if `name`
        is taken; while tracing, for logits of different shapes or of one class, or if `head` does not fit the heads.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> start = net.init(jax.random.key(0), jnp.zeros((4, 5)))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.distillation(net, start)])

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531; Li and Hoiem, Learning without
    Forgetting, 2016, arXiv 1606.09282.
    """
    checked(weight, name)
    if not temperature > 0:
        raise ValueError(f"{name}: temperature={temperature}: it must be positive")

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        sums = []
        for view in views.values():
            x = ops.without_masked(view.x, view.mask)  # a NaN from the teacher would reach the gradient
            target = teacher.apply(Variables(**stats[name]), x, train=False, key=None)[0].output
            z, kept = _of(view.output, head, "network")
            t = jax.lax.stop_gradient(_of(target, head, "teacher")[0])
            values = divergence(z, t, temperature) if loss is None else loss(z, t)
            kept = positions(z.shape, view.features, view.x) if kept is None else kept
            of_each = kept is not None and jnp.shape(values)[:2] == kept.shape
            sums.append(mean(values, view.mask, kept if of_each else None))
        total, count = sum(s.total for s in sums), sum(s.count for s in sums)
        return {name: weighted(Mean(total, count), weight, step)}, Aux(stats)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key, views
        return with_own(given, name, variables._asdict())

    return Objective(run, init)


def divergence(
    logits: Float[ArrayLike, "*shape"], target: Float[ArrayLike, "..."], temperature: float = 1.0
) -> Float[Array, "..."]:
    """`T² KL(softmax(t/T) ‖ softmax(z/T))` in nats, one value per example, or per element.

    Raises:
      ValueError: if the shapes differ, or if there is only one class.
    """
    z, t = jnp.asarray(logits), jnp.asarray(target)
    if z.shape != t.shape:
        raise ValueError(f"logits of shape {z.shape} and the teacher's of shape {t.shape}: they must have equal shapes")
    if z.shape[-1] == 1:
        raise ValueError(f"logits of shape {z.shape} are of one class, which every network is sure of: give a loss")
    wide = jnp.promote_types(z.dtype, jnp.float32)
    log_q = jax.nn.log_softmax(z.astype(wide) / temperature)
    log_p = jax.nn.log_softmax(t.astype(wide) / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def _of(output: Any, head: str | None, whose: str) -> tuple[Any, Any]:
    """One head's output, and its mask or None."""
    if isinstance(output, dict) != (head is not None) or (isinstance(output, dict) and head not in output):
        heads = sorted(output) if isinstance(output, dict) else "one head"
        raise ValueError(f"distillation: head={head!r}, and the {whose} has {heads}: name one of several, none of one")
    found = output if head is None else output[head]
    return (found.values, found.mask) if isinstance(found, Masked) else (found, None)

"""Meta-learning domain generalisation: a gradient step on some domains should also help the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl import losses, ops, rng
from jtl.methods.adapt.views import ignoring, look
from jtl.methods.adapt.vrex import checked, counted, labelled, risk_of
from jtl.methods.finetune.finetune import ACCURACY
from jtl.methods.views import needs
from jtl.metrics.accumulate import Mean, Metric, measure
from jtl.model import Model, Variables, upcast
from jtl.objective import NONE, Objective, complete
from jtl.params import merge, split
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats


def mldg(
    net: Model,
    domains: Sequence[str],
    loss: Callable = losses.cross_entropy,
    *,
    inner_lr: float,
    weight: float = 1.0,
    held_out: int = 1,
    order: int = 2,
    adapted: Mask | None = None,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
) -> Objective:
    """The objective `F(θ) + β G(θ − α ∇F(θ))`, F the mean loss of some domains, G that of the others.

    Each step draws which domains are held out. Both passes use the rows of all domains, so BatchNorm sees the same
    batch in both; running statistics are those of the first. A domain without rows counts as having loss 0.

    Args:
      net: `jtl.network(backbone=..., head=...)`.
      domains: the views' names, two or more.
      loss: one value per row.
      inner_lr: α.
      weight: β.
      held_out: number of domains in G; the others are in F.
      order: 2 differentiates through ∇F, 1 holds it constant.
      adapted: the parameters that the inner step changes, which should be those that the train step trains; None for
        all.
      metrics: metrics of each domain, as in `finetune`; they are reported as `<domain>/<metric>`.
      ignore: as in `finetune`.

    Returns:
      An objective on batches `{domain: {"x", "y", "mask"}, ...}` with the terms `<domain>/train` and
      `<domain>/held_out`. With microbatches, each part has its own inner step.

    Raises:
      ValueError: for fewer than two domains, a rate or weight that is not positive, F or G without a domain, or another
        order; while tracing, for a domain that is missing or has no labels.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.mldg(net, ("photo", "sketch", "art"), inner_lr=5e-4)

    Li et al., Learning to Generalize: Meta-Learning for Domain Generalization, 2018, arXiv 1710.03463.
    """
    names = checked(domains)
    for what, value in (("inner_lr", inner_lr), ("weight", weight)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{what}={value}: give a positive number")
    if not 1 <= held_out < len(names):
        raise ValueError(f"held_out={held_out} of {len(names)} domains: leave one or more on both sides")
    if order not in (1, 2):
        raise ValueError(f"order={order}: 2, or 1 for a gradient that is held constant")

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        out = jax.random.permutation(rng.stream(key, "mldg"), jnp.arange(len(names)) < held_out)
        out = ops.gather(out[None])[0]  # devices have different keys, but must hold out the same domains
        part, rest = (params, {}) if adapted is None else split(params, adapted)

        def risks(part: Params) -> tuple[dict[str, Mean], Any]:
            views, new = look(net, merge(part, rest), stats, batch, key)
            views = ignoring(views, ignore)
            return {d: risk_of(views, d, loss) for d in names}, (views, new)

        def of_train(part: Params) -> tuple[Any, Any]:
            found, aux = risks(part)
            # This device's share of the mean; gradients are summed over devices, so they are exact under pmap too.
            share = jnp.stack([m.total / jnp.maximum(ops.batch_sum(m.count), 1e-30) for m in found.values()])
            return jnp.where(out, 0.0, share).sum() / (len(names) - held_out), (found, aux)

        (_, (found, (views, new))), slope = jax.value_and_grad(of_train, has_aux=True)(part)
        slope = ops.batch_sum(slope)
        slope = jax.lax.stop_gradient(slope) if order == 1 else slope
        # In at least float32, because such a step would be lost in the 8 bits of bfloat16.
        after, _ = risks(jax.tree.map(lambda p, g: p - inner_lr * g, upcast(part), upcast(slope)))
        terms = {}
        for i, d in enumerate(names):
            terms[f"{d}/train"] = found[d].scale(jnp.where(out[i], 0.0, 1.0 / (len(names) - held_out)))
            terms[f"{d}/held_out"] = after[d].scale(jnp.where(out[i], weight / held_out, 0.0))
        told: dict[str, Any] = {}
        for d in names:
            view = labelled(views, d)
            told |= {
                f"{d}/{n}": measure(metric, view.output, view.y, counted(view), name=n) for n, metric in metrics.items()
            }
        return terms, Aux(new, told, {d: view.output for d, view in views.items()})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, names, "mldg")
        return complete(net.init, key, batch[names[0]]["x"], given)

    return Objective(run, init, classes=net.classes)

"""R-Drop: two passes of each example through dropout should agree."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl import losses
from jtl.methods.finetune.distillation import divergence
from jtl.methods.finetune.finetune import ACCURACY, finetune, weights_without
from jtl.methods.terms import checked, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import Metric, element_weights, mean
from jtl.model import Model
from jtl.objective import Objective, on
from jtl.reads import Masked, positions
from jtl.typing import Aux, Batch, Key, Params, Schedule, Stats


def r_drop(
    net: Model,
    weight: float | Schedule,
    loss: Callable = losses.cross_entropy,
    terms: Sequence[Objective | Callable] = (),
    *,
    distance: Callable[[Any, Any], Any] | None = None,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
    name: str = "r_drop",
) -> Objective:
    """The objective `mean_i ½ (ℓ(z_i, y_i) + ℓ(z'_i, y_i)) + α mean_i ½ (KL(p_i ‖ p'_i) + KL(p'_i ‖ p_i))`.

    z and z' are the outputs of two passes with different dropout, and p and p' their softmax. Both get the gradient.
    The paper adds the two losses instead of their mean, so its α is twice this one; the authors' published code has
    the form above. Elements i are those of the loss (tokens, frames, pixels, ...), without padding.

    Both passes are one, through a batch in which each row stands twice, so a step costs about twice as much. BatchNorm
    sees this batch. What a network draws once for a whole batch, such as LayerDrop, is equal in both passes. Without
    dropout both agree, and the term is 0.

    Args:
      net: `jtl.network(backbone=..., head=...)` with dropout.
      weight: α, a number or a function of the step.
      loss: as in `finetune`.
      terms: as in `finetune`; their view holds each row twice.
      distance: `distance(z, z')`, one value per example or element, instead of the symmetric KL, for outputs that are
        no logits with classes on their last axis; for instance `jtl.losses.mse` for regression.
      metrics: as in `finetune`, over both passes.
      ignore: as in `finetune`; such elements do not count in the divergence either.
      name: name of the divergence among the terms; the loss is reported as `supervised`.

    Returns:
      An objective on the batches of `finetune`; its outputs for `jtl.collect` are those of the first pass.

    Raises:
      ValueError: for a weight that is negative or not finite; while tracing, for outputs that are no logits unless
        there is a `distance`, and for weights by name.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> batch = {"x": jnp.ones((4, 5)), "y": jnp.zeros(4, int)}
      >>> objective = jtl.finetuning.r_drop(net, 1.0)
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, _ = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)
      >>> sorted(loss)
      ['r_drop', 'supervised']

    Liang et al., R-Drop: Regularized Dropout for Neural Networks, 2021, arXiv 2106.14448.
    """
    checked(weight, name)

    def between(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        first, again = (jax.tree.map(lambda a, i=i: a[i::2], views["source"]) for i in range(2))
        z, other = first.output, again.output
        kept = z.mask if isinstance(z, Masked) else None
        if isinstance(z, Masked):
            z, other = z.values, other.values
        if kept is None and isinstance(z, jax.Array):
            kept = positions(z.shape, first.features, first.x)
        values = _symmetric(z, other, name) if distance is None else distance(z, other)
        weights = weights_without(ignore, first.y, first.rows.get("weights"))
        if isinstance(weights, Mapping):
            raise ValueError(f"{name}: labels with weights by name, {sorted(weights)}, do not say what counts here")
        if kept is not None and jnp.shape(values)[:2] == kept.shape:
            weights = element_weights(jnp.shape(values), kept, weights)
        return {name: weighted(mean(values, first.mask, weights), weight, step)}, Aux(stats)

    inner = finetune(net, loss, [Objective(between), *terms], metrics=metrics, ignore=ignore)
    twice = on(inner, lambda batch, key: jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), 2, axis=0), dict(batch)))

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        value, aux = twice(params, stats, batch, key, step)
        return value, aux._replace(outputs=jax.tree.map(lambda a: a[::2], aux.outputs))

    return dataclasses.replace(twice, loss=run)


def _symmetric(z: Any, other: Any, name: str) -> Any:
    """`½ (KL(p ‖ p') + KL(p' ‖ p))` in nats, one value per element."""
    if not isinstance(z, jax.Array) or z.ndim < 2 or z.shape[-1] == 1:
        shapes = jax.tree.map(jnp.shape, z)
        raise ValueError(f"{name}: the output must be logits of several classes, and is {shapes}: give a distance")
    return (divergence(z, other) + divergence(other, z)) / 2

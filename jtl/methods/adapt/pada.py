"""Partial adaptation: source classes that the target seems to lack have little weight, in both losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import losses
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import DOMAINS, weighed
from jtl.methods.finetune.finetune import ACCURACY
from jtl.methods.near import near
from jtl.methods.views import Views, classes_of_rows, needs
from jtl.metrics.accumulate import Metric
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Batch, Key, Params, Schedule, Stats

NAME = "class_weights"
"""The name of γ in the statistics."""


def pada(
    net: Model,
    critic: Model | None = None,
    loss: Callable = losses.cross_entropy,
    *,
    weight: float | Schedule = 1.0,
    alignments: Sequence[Objective | Callable] = (),
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
    name: str = "critic",
) -> Objective:
    """The objective `Σ_i γ_{y_i} ℓ_i / Σ_i γ_{y_i}` on the source, plus `dann` with weights `γ_{y_i}` of source rows.

    `γ_c = q_c / max_k q_k`, with q the mean prediction on the target, so classes that only the source has drop out of
    both losses. γ is 1 at the start and is kept in the statistics as `class_weights`; `class_weights(net, target)`
    updates it, every 500 steps in the paper.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      critic: as in `dann`.
      loss: one value per row.
      weight: λ of the reversed gradient, a number or a function of the step.
      alignments: further alignments, as in `adapt`.
      metrics: metrics on the source.
      ignore: as in `finetune`; γ is 0 for such a row.
      name: as in `dann`.

    Returns:
      An objective on batches `{"source": {"x", "y", "mask"}, "target": {"x", "mask"}}`, for
      `fit(..., refresh=Refresh(class_weights(net, target), every=500))`.

    Raises:
      ValueError: while tracing, for a source without integer labels, or with its own weights.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective, x = jtl.alignments.pada(net), jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> objective.init(jax.random.key(0), batch).stats["class_weights"].tolist()
      [1.0, 1.0, 1.0]

    Cao et al., Partial Adversarial Domain Adaptation, 2018, arXiv 1808.04205.
    """

    def rows(views: Views) -> dict[str, Any]:
        return {"source": views["source"].rows["weights"], "target": jnp.ones(len(views["target"].output))}

    inner = adapt(net, loss, [weighed(critic, weight, name, rows), *alignments], metrics=metrics, ignore=ignore)

    def with_weights(batch: Batch, gamma: Any) -> dict[str, Any]:
        needs(batch, DOMAINS, "pada")
        source = batch["source"]
        if source.get("weights") is not None:
            raise ValueError("pada weighs the rows of the source by their class: give it no 'weights'")
        y = classes_of_rows(source.get("y"), "pada")
        return {**batch, "source": {**source, "weights": jnp.where(y >= 0, gamma[jnp.maximum(y, 0)], 0.0)}}

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[Any, Aux]:
        return inner(params, stats, with_weights(batch, stats[NAME]), key, step)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, DOMAINS, "pada")
        shape = jax.eval_shape(
            lambda k, x: net.apply(net.init(k, x), x, train=False)[0].output, key, batch["source"]["x"]
        )
        if len(shape.shape) != 2:
            raise ValueError(f"pada: the network gives {shape.shape}; it needs logits [batch, classes]")
        gamma = jnp.ones(shape.shape[1])
        variables = inner.init(key, with_weights(batch, gamma), given)
        return variables._replace(stats={NAME: gamma, **variables.stats})

    return Objective(run, init, inner.commit, net.classes)


def class_weights(net: Model, target: Any) -> Callable[[Any], Any]:
    """A function of a state for `Refresh`: `γ_c = q_c / max_k q_k`, q the mean of `softmax(net(x))` over the target.

    Args:
      net: the network of `pada`, run in evaluation mode.
      target: batches `{"x", "mask"}`; `len(target)` of them are one epoch.

    Raises:
      ValueError: when run, if no row of the target counts.

    Example:
      >>> import jtl, numpy as np
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> target = jtl.data.arrays(np.zeros((8, 5), np.float32), batch_size=4, shuffle=False)
      >>> refresh = jtl.Refresh(jtl.alignments.class_weights(net, target), every=500)

    Cao et al., Partial Adversarial Domain Adaptation, 2018, arXiv 1808.04205.
    """

    @jax.jit
    def predict(variables: Variables, x: Any) -> Any:
        return jax.nn.softmax(net.apply(variables, x, train=False)[0].output.astype(jnp.float32))

    def run(state: Any) -> Any:
        own = {n: part for n, part in state.stats.items() if n != NAME}
        variables = Variables(state.params, own)
        put, total, count = near(variables), 0.0, 0
        for i in range(len(target)):
            batch = target[i]  # once, because each access reads its files
            p = np.asarray(predict(variables, put(batch["x"])), np.float64)
            mask = batch.get("mask")
            p = p if mask is None else p[np.asarray(mask) > 0]
            total, count = total + p.sum(0), count + len(p)
        if not count:
            raise ValueError("class_weights: no row of the target counts")
        return state._replace(stats={**state.stats, NAME: jnp.asarray(total / np.max(total), jnp.float32)})

    return run

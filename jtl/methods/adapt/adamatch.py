"""AdaMatch: pseudo-labels whose distribution and threshold follow the source's predictions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import losses, ops, rng
from jtl.methods.adapt.views import look
from jtl.methods.finetune.finetune import ACCURACY, judged
from jtl.methods.terms import checked, clean, paired_logits, row_logits, weighted, whole
from jtl.methods.views import needs
from jtl.metrics.accumulate import Metric, element_weights, mean
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Schedule, Stats

SOURCE = ("source", "source_strong")
TARGET = ("target", "strong")


def adamatch(
    net: Model,
    weight: float | Schedule = 1.0,
    *,
    threshold: float = 0.9,
    momentum: float = 0.999,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
    name: str = "adamatch",
) -> Objective:
    """The objective `½ Σ_{weak, strong} mean_s CE(z, y) + μ mean_t 1[max ỹ ≥ c] CE(z_strong, argmax ỹ)`.

    The source's logits are drawn between those of two passes, `z = z' + u (z'' − z')`: z' from the source and the
    target together, z'' from the source alone, and u uniform for each logit. `ỹ ∝ p q_s / q_t` aligns a target row's
    prediction p to the source's class distribution, with q_s and q_t the moving averages of each domain's mean
    prediction on its weak view. The threshold `c = τ mean_s max p` follows the confidence on the source. ỹ and c have
    no gradient. Running statistics are those of the pass over all views.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      weight: μ, a number or a function of the step; the paper uses `½ − ½ cos(min(π, 2π t/T))`.
      threshold: τ, in [0, 1].
      momentum: momentum of the moving averages, which start uniform. The authors' code uses the mean of the last 128
        batches as q_t instead.
      metrics: metrics on the weak view of the source.
      ignore: as in `finetune`.
      name: name of the term, and of the averages in the statistics. With microbatches the averages are updated once per
        part.

    Returns:
      An objective on batches with four views: `source` and `target` are weak augmentations, and `source_strong` and
      `strong` are strong ones of the same examples in the same order. Only `source` has labels, integers [batch].

    Raises:
      ValueError: for a weight, threshold or momentum out of range; while tracing, for a missing view, or views that
        differ in size.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective, x = jtl.alignments.adamatch(net), jnp.zeros((4, 5))
      >>> views = {"source": {"x": x, "y": jnp.zeros(4, int)}, "source_strong": {"x": x}}
      >>> batch = {**views, "target": {"x": x}, "strong": {"x": x}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)

    Berthelot et al., AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain Adaptation, 2021, arXiv
    2106.04732.
    """
    checked(weight, name)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: it lies in [0, 1]")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: it lies in [0, 1)")

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        missing = sorted({*SOURCE, *TARGET} - set(batch))
        if missing:
            raise ValueError(f"{name} needs the views {[*SOURCE, *TARGET]}; the batch lacks {missing}")
        views, moved = look(net, params, stats, batch, key)
        alone, _ = look(net, params, stats, {d: batch[d] for d in SOURCE}, key)
        draw = rng.stream(key, name)
        between = {}
        for i, d in enumerate(SOURCE):
            (a, _), (b, _) = row_logits(views, d, name), row_logits(alone, d, name)
            between[d] = a + jax.random.uniform(jax.random.fold_in(draw, i), a.shape, a.dtype) * (b - a)
        if between["source"].shape != between["source_strong"].shape:
            sizes = [len(z) for z in between.values()]
            raise ValueError(f"{name}: 'source' has {sizes[0]} rows and 'source_strong' {sizes[1]}: give two views")
        part = {**views["source"].rows, "y": batch["source"]["y"], "mask": batch["source"].get("mask")}
        value, found = judged(between["source"], part, losses.cross_entropy, metrics, ignore)
        of_labels = ops.kept(part["mask"], len(between["source"]))  # a masked row has no label in the strong view
        weights = element_weights(jnp.shape(part["y"]), of_labels, part.get("weights"))
        strong_part = {**part, "mask": views["source_strong"].mask, "weights": weights}
        strong, _ = judged(between["source_strong"], strong_part, losses.cross_entropy, {}, ignore)
        p_source = jax.lax.stop_gradient(jax.nn.softmax(between["source"]))
        weak, learns, kept = paired_logits(views, *TARGET, name)
        p_target = jax.lax.stop_gradient(jax.nn.softmax(weak))
        old = stats[name]
        new = {
            "source": _moved(old["source"], p_source, part["mask"], momentum),
            "target": _moved(old["target"], p_target, views["target"].mask, momentum),
        }
        aligned = aligned_labels(p_target, new["source"], new["target"])
        limit = threshold * whole(mean(p_source.max(1), part["mask"]))
        sure = aligned.max(1) >= limit[None]
        values = jnp.where(sure, losses.cross_entropy(learns, aligned.argmax(1)), 0.0)
        terms = {
            "source": weighted(value, 0.5, step),
            "source_strong": weighted(strong, 0.5, step),
            name: weighted(mean(values, kept), weight, step),
        }
        found = {**found, f"{name}_confident": mean(sure, kept), f"{name}_threshold": limit}
        return terms, Aux({**moved, name: new}, found, {d: view.output for d, view in views.items()})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, SOURCE, name)
        variables = complete(net.init, key, batch["source"]["x"], given)
        if name in variables.stats:
            return variables
        shape = jax.eval_shape(lambda v, x: net.apply(v, x, train=False)[0].output, variables, batch["source"]["x"])
        start = {d: jnp.full(shape.shape[1], 1 / shape.shape[1]) for d in ("source", "target")}
        return variables._replace(stats={**variables.stats, name: start})

    return Objective(run, init, classes=net.classes)


def aligned_labels(
    p: Float[Array, "rows classes"], source: Float[Array, " classes"], target: Float[Array, " classes"]
) -> Float[Array, "rows classes"]:
    """`ỹ_c ∝ p_c q_s,c / q_t,c`, each row summing to 1, with 1e-6 added to q_s and q_t as in the authors' code.

    Args:
      p: predictions on the target.
      source: q_s.
      target: q_t.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.adamatch import aligned_labels
      >>> p = jnp.array([[0.5, 0.5]])
      >>> labels = aligned_labels(p, jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]))
      >>> [round(float(v), 3) for v in labels[0]]
      [0.75, 0.25]
    """
    raw = p * ((source + 1e-6) / (target + 1e-6))[None]
    return raw / jnp.maximum(raw.sum(1, keepdims=True), jnp.finfo(raw.dtype).tiny)


def _moved(old: Array, p: Array, mask: Any, momentum: float) -> Array:
    """The moving average, updated with the mean row of all devices; unchanged if no row counts."""
    p, kept = clean(p, mask)
    total, count = ops.batch_sum((p.sum(0), kept.sum()))
    now = total / jnp.maximum(count, 1)
    return jnp.where(count > 0, momentum * old + (1 - momentum) * now.astype(old.dtype), old)

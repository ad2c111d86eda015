"""FlexMatch: FixMatch with a threshold for each class, which is low while few rows of that class are learned."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jtl import checked, losses, ops
from jtl.methods.adapt.source_free.rows import refuse_views, rows_of
from jtl.methods.terms import checked as check_weight
from jtl.methods.terms import kept_or_new, paired_logits, view_of, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def flexmatch(
    rows: int,
    weight: float | Schedule = 1.0,
    *,
    threshold: float = 0.95,
    weak: str = "target",
    strong: str = "strong",
    name: str = "flexmatch",
) -> Objective:
    """The alignment `λ mean_i 1[max_c p_ic ≥ T_ŷ] · −log q_iŷ`: FixMatch with a threshold T_c for each class.

    p is the prediction on the weak view, held constant, `ŷ_i = argmax_c p_ic`, and q the prediction on the strong view.
    The memory keeps one class for each row of the target: that of its last prediction with `max_c p_c ≥ τ`. σ_c is the
    number of rows with class c, and N₀ the number of rows without a class. With `β_c = σ_c / max(max_k σ_k, N₀)`, the
    threshold is `T_c = τ β_c / (2 − β_c)`. It is 0 at first, so every row counts. The class with the most rows
    reaches τ when it has N₀ rows or more. A step uses the thresholds from before it, with microbatches too.

    Args:
      rows: number of target examples.
      weight: λ, a number or a function of the step.
      threshold: τ, in [0, 1].
      weak: the view whose predictions become labels. Its y is the ROW of each example in the target, `arange(rows)`,
        not a label: use `target = jtl.data.arrays(x, np.arange(len(x)), ...)` and
        `jtl.data.pair(source, target, target_labels=True)`. Examples with a negative y are not in the memory.
      strong: the strongly augmented view, of the same examples in the same order, that is trained on these labels.
      name: name of the term, and of the memory in the statistics.

    Returns:
      An alignment for `adapt` with the metrics `<name>_confident`, the fraction of rows above their threshold, and
      `<name>_threshold`, the mean of T over the classes.

    Raises:
      ValueError: for rows below 1, or a weight or threshold out of range; at init, if `name` is taken, or if the batch
        shows that y are not rows: two of its examples share one, or one is not below `rows`; while tracing, for a
        missing view, views that differ in size, or a weak view whose y are not integers [batch].

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.flexmatch(rows=100)])
      >>> x, target = jnp.zeros((4, 5)), {"x": jnp.zeros((4, 5)), "y": jnp.array([7, 0, 99, 31])}
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": target, "strong": {"x": x + 0.1}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> {part: a.shape for part, a in variables.stats["flexmatch"].items()}
      {'counts': (3,), 'labels': (100,)}

    Zhang et al., FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling, 2021, arXiv 2110.08263.
    """
    checked.whole(1, rows=rows)
    checked.within("[0, 1]", threshold=threshold)
    check_weight(weight, name)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        p, q, kept = paired_logits(views, weak, strong, name)
        places = rows_of(view_of(views, weak, name).y, name, weak)
        p = jax.nn.softmax(jax.lax.stop_gradient(p))
        most, chosen = p.max(1), p.argmax(1)
        memory, limits = stats[name], threshold * class_thresholds(stats[name]["counts"], rows).astype(p.dtype)
        sure = most >= limits[chosen]
        value = mean(jnp.where(sure, losses.cross_entropy(q, chosen), 0.0), kept)
        learned = kept & (most >= threshold) & (places >= 0)
        at, found = (
            ops.gather(jnp.where(learned, places, rows)),
            ops.gather(chosen),
        )  # `rows` is out of bounds, so it is dropped
        labels = memory["labels"].at[at].set(found.astype(jnp.int32), mode="drop")
        metrics = {f"{name}_confident": mean(sure, kept), f"{name}_threshold": limits.mean()}
        return {name: weighted(value, weight, step)}, Aux({**stats, name: {**memory, "labels": labels}}, metrics)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key
        view = view_of(views, weak, name)
        refuse_views(view, rows, name, weak)
        classes = jnp.shape(view.output)[-1]
        start = {"labels": jnp.full(rows, -1, jnp.int32), "counts": jnp.zeros(classes, jnp.int32)}
        return kept_or_new(given, name, start)

    def commit(stats: Stats, params: Params) -> Stats:
        del params
        labels, counts = stats[name]["labels"], stats[name]["counts"]
        at = jnp.where(labels >= 0, labels, len(counts))
        return {**stats, name: {"labels": labels, "counts": jnp.zeros_like(counts).at[at].add(1, mode="drop")}}

    return Objective(run, init, commit)


def class_thresholds(counts: Num[Array, " classes"], rows: int) -> Float[Array, " classes"]:
    """`β_c / (2 − β_c)` in [0, 1] with `β_c = σ_c / max(max_k σ_k, N − Σ_k σ_k)`, the learning status of each class.

    Args:
      counts: σ, the number of rows whose last confident prediction is each class.
      rows: N, the number of all rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.flexmatch import class_thresholds
      >>> [round(float(t), 3) for t in class_thresholds(jnp.array([60, 30, 0]), 100)]
      [1.0, 0.333, 0.0]
    """
    counts = counts.astype(jnp.float32)
    beta = counts / jnp.maximum(jnp.maximum(counts.max(), rows - counts.sum()), 1)[None]
    return beta / (2 - beta)

"""Domain adaptation: a supervised loss on the source plus any sum of alignments of the two domains."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jtl import losses, rng
from jtl.methods.adapt.views import View, Views
from jtl.methods.finetune.finetune import ACCURACY, forward
from jtl.metrics import accumulate
from jtl.metrics.accumulate import mean
from jtl.model import Model, Variables, pick
from jtl.typing import Alignment, Aux, Batch, Key, Objective, Params, Stats


def adapt(
    backbone: Model,
    head: Model,
    loss: Callable = losses.cross_entropy,
    alignments: Sequence[Alignment] = (),
    *,
    feature: str | Sequence[str] = "pooled",
    metrics: Mapping[str, Callable] = ACCURACY,
) -> Objective:
    """The objective `mean_source ℓ(h(f(x)), y) + Σ_k alignment_k(source, target)`.

    Both domains go through the network in one pass, so BatchNorm sees them together. With no alignment this is
    source-only training on the same batches.

    Args:
      backbone: its parameters stand under `backbone/`.
      head: its parameters stand under `head/`.
      loss: one value per example of the source.
      alignments: each `(params, stats, views, key, step) -> (loss, Aux)`, as `dann(critic)`; the names of their
        terms and metrics must differ.
      feature: which features the head and the alignments see.
      metrics: on the source.

    Returns:
      An objective on batches `{"source": {"x", "y", "mask"}, "target": {"x", "mask"}}`; the two may differ in size.

    Raises:
      ValueError: while tracing, where two alignments use one name.
    """

    def objective(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        views, stats = look(backbone, head, params, stats, batch, key, feature=feature)
        source = views.source
        terms = {"source": mean(loss(source.logits, source.y), source.mask)}
        found = {name: mean(metric(source.logits, source.y), source.mask) for name, metric in metrics.items()}
        for i, alignment in enumerate(alignments):
            more, aux = alignment(params, stats, views, rng.stream(key, "alignment", i), step)
            more, stats = accumulate.as_terms(more), aux.stats
            clash = sorted((terms.keys() & more.keys()) | (found.keys() & aux.metrics.keys()))
            if clash:
                raise ValueError(f"alignment {i} uses the names {clash}, which are taken: give it another name")
            terms |= more
            found |= aux.metrics
        return terms, Aux(stats, found)

    return objective


def look(
    backbone: Model,
    head: Model,
    params: Params,
    stats: Stats,
    batch: Batch,
    key: Key,
    *,
    feature: str | Sequence[str] = "pooled",
) -> tuple[Views, Stats]:
    """One pass over the rows of both domains, and the two parts of what came out."""
    source, target = batch["source"], batch["target"]
    n = jax.tree.leaves(source["x"])[0].shape[0]
    chex.assert_trees_all_equal_structs(source["x"], target["x"], custom_message="inputs of source and target")
    for ours, theirs in zip(jax.tree.leaves(source["x"]), jax.tree.leaves(target["x"]), strict=True):
        chex.assert_shape(theirs, (None, *ours.shape[1:]), custom_message="a target shaped otherwise than the source")
    x = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), source["x"], target["x"])
    features, logits, stats = forward(backbone, head, feature=feature, train=True)(Variables(params, stats), x, key)

    def view(rows, part):
        cut = {name: value[rows] for name, value in features.items()}
        return View(cut, pick(cut, feature, part["x"]), logits[rows], part.get("y"), part.get("mask"))

    return Views(view(slice(None, n), source), view(slice(n, None), target)), stats

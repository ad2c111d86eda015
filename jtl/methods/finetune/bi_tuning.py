"""Bi-Tuning: adds two contrastive terms to the supervised loss, one on the classifier and one on a projection."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops, rng
from jtl.methods.finetune.contrastive import against_prototypes, supervised_contrastive, unit_rows
from jtl.methods.terms import checked, weighed, weighted
from jtl.methods.views import Views, classes_of_rows, needs
from jtl.metrics.accumulate import mean
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.params import flatten
from jtl.typing import Aux, Key, Params, Schedule, Stats


def bi_tuning(
    weight: float | Schedule = 1.0,
    *,
    width: int = 128,
    temperature: float = 0.07,
    feature: str = "pooled",
    kernel: str = "head/out/kernel",
    name: str = "bi_tuning",
) -> Objective:
    """The terms `<name>_classes` (contrastive cross-entropy) and `<name>_rows` (categorical contrastive learning).

    The first uses the classifier's vector of each class as query and the batch's features as keys
    (`contrastive.against_prototypes`), all normalised to length 1. The second compares projections of rows by their
    labels (`contrastive.supervised_contrastive`). The keys are the rows of the batch on all devices, instead of the
    paper's queues of a momentum encoder (`bi_tuning_queue`), so use batches in which each class has several rows. The
    projection is stored in the parameters under `<name>/kernel`; prediction does not use it. With microbatches each
    part compares its own rows.

    Args:
      weight: weight of both terms, a number or a function of the step.
      width: output width of the projection.
      temperature: T > 0.
      feature: the name of the backbone's feature, [batch, width].
      kernel: the path of the linear classifier's kernel [width of the feature, classes].
      name: name of the terms and the parameters.

    Returns:
      A term for `finetune(net, loss, terms)`; its view has integer labels [batch]. Rows do not count whose label
      is not a class or is to be ignored, or whose weight is 0.

    Raises:
      ValueError: for numbers out of range; while tracing, for a feature that is not a matrix, or a kernel that is
        missing or does not fit it.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.bi_tuning(width=4)])
      >>> batch = {"x": jnp.zeros((4, 5)), "y": jnp.zeros(4, int)}
      >>> sorted(objective.init(jax.random.key(0), batch).params)
      ['backbone', 'bi_tuning', 'head']

    Zhong et al., Bi-tuning of Pre-trained Representations, 2020, arXiv 2011.06182.
    """
    checked(weight, name)
    if not temperature > 0 or width < 1:
        raise ValueError(f"{name}: temperature={temperature}, width={width}: both are positive")

    def rows(views: Views) -> Any:
        needs(views, ("source",), name)
        return vectors_of(views["source"].features, feature, name), views["source"]

    def classifier(params: Params, wide: int) -> Any:
        flat = flatten(params)
        if kernel not in flat or flat[kernel].ndim != 2 or flat[kernel].shape[0] != wide:
            matrices = {path: jnp.shape(a) for path, a in flat.items() if jnp.ndim(a) == 2 and path.endswith("kernel")}
            raise ValueError(f"{name}: kernel={kernel!r} must be [{wide}, classes]; there are {matrices}")
        return flat[kernel]

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del key
        f, view = rows(views)
        w, y = classifier(params, f.shape[1]).T, classes_of_rows(view.y, name)
        kept = (y >= 0) & (y < len(w)) & ops.kept(view.mask, len(y)) & weighed(view, len(y))
        f, kept, y = ops.gather(f), ops.gather(kept), ops.gather(y)
        wide = jnp.promote_types(f.dtype, jnp.float32)
        z = f.astype(wide) @ params[name]["kernel"].astype(wide)
        by_row = mean(*supervised_contrastive(z, y, kept, temperature=temperature))
        by_class = mean(*against_prototypes(unit_rows(f), y, unit_rows(w), kept, temperature=temperature))
        terms = {"classes": by_class, "rows": by_row}
        return {f"{name}_{term}": weighted(value, weight, step) for term, value in terms.items()}, Aux(stats)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        if name in given.params:
            return given
        draw = jax.nn.initializers.lecun_normal()
        own = draw(rng.stream(key, name), (rows(views)[0].shape[1], width))
        return Variables({**given.params, name: {"kernel": own}}, given.stats)

    return Objective(run, init)


def vectors_of(features: Mapping[str, Any], feature: str, name: str) -> Any:
    """The feature of this name, one vector per row; the error lists the available features."""
    f = features.get(feature)
    if f is None or f.ndim != 2:
        shapes = {n: jnp.shape(a) for n, a in features.items()}
        raise ValueError(f"{name}: feature={feature!r} must be [batch, width]; there are {shapes}")
    return f

"""Domain adaptation: a supervised loss on the source plus any sum of alignments of the domains."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from jtl import losses
from jtl.methods.adapt.own_norms import look_apart, with_own_norms
from jtl.methods.adapt.views import ignoring, look
from jtl.methods.added import added
from jtl.methods.finetune.finetune import ACCURACY, judged
from jtl.methods.views import needs
from jtl.metrics.accumulate import Metric, as_terms
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats


def adapt(
    net: Model,
    loss: Callable = losses.cross_entropy,
    alignments: Sequence[Objective | Callable] = (),
    *,
    labelled: Sequence[str] = ("source",),
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    ignore: int | None = None,
    own_norms: Sequence[str] = (),
) -> Objective:
    """The objective `Σ_labelled mean ℓ(net(x), y) + Σ_k alignment_k(views)`.

    All views pass through the network together, so BatchNorm sees the target's rows too. The baseline without
    adaptation is therefore `finetune` on the source alone, not this objective without alignments.

    Args:
      net: `jtl.network(backbone=..., head=...)`.
      loss: one value per element, as in `finetune`.
      alignments: objectives on views instead of a batch, such as `dann(critic)`, or bare functions with the same
        arguments; the names of their terms and metrics must differ.
      labelled: the views whose labels are used; each of several sources has its own term. With `()` the alignments are
        the whole objective.
      metrics: metrics on the first labelled view.
      ignore: as in `finetune`. Alignments see it as a weight of 0, and those that read labels leave such rows out.
      own_norms: views with their own normalisation layers (Chang et al., Domain-Specific Batch Normalization, 2019,
        arXiv 1906.03950). Each of these views has a pass of its own; all others pass together through the network's
        layers. With `("source",)` the network's layers and running statistics become those of the target, and
        `of_domain` returns the source's.

    Returns:
      An objective on batches `{"source": {"x", "y", "mask"}, "target": {"x", "mask"}, ...}` with any number of views,
      which may differ in size.

    Raises:
      ValueError: while tracing, if two alignments use the same name, or if a labelled view is missing.
      TypeError: while tracing, for a net of another kind, such as a whole flax classifier.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.dann(jtl.heads.mlp(1, (8,)))])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}}
      >>> sorted(objective.init(jax.random.key(0), batch).params)
      ['backbone', 'critic', 'head']
    """
    aligned = added(alignments, "alignment")
    own = tuple(own_norms)
    passed = partial(look_apart, net, own) if own else partial(look, net)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        views, stats = passed(params, stats, batch, key)
        views = ignoring(views, ignore)
        terms: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for i, name in enumerate(labelled):
            if name not in views or views[name].y is None:
                raise ValueError(
                    f"labelled={tuple(labelled)}: the batch has no labels of {name!r}, only views {list(views)}"
                )
            view = views[name]
            part = {"y": view.y, "mask": view.mask, "weights": view.rows.get("weights")}
            value, measured = judged(view.output, part, loss, metrics if i == 0 else {})
            more = as_terms(value)
            terms |= {name if term == "loss" else f"{name}/{term}": m for term, m in more.items()}
            found |= measured
        aux = Aux(stats, found, {name: view.output for name, view in views.items()})
        return aligned.to(terms, aux, params, views, key, step)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, labelled, f"labelled={tuple(labelled)}")
        variables = complete(net.init, key, batch[(*labelled, *batch)[0]]["x"], given)
        if own:
            variables = with_own_norms(net, variables, own)
        if not aligned.terms:
            return variables
        views = jax.eval_shape(
            lambda v, b, k: ignoring(passed(v.params, v.stats, b, k)[0], ignore), variables, dict(batch), key
        )
        # Labels and masks as they are, because an alignment may check those of the first batch.
        views = {n: view._replace(y=batch[n].get("y"), mask=batch[n].get("mask")) for n, view in views.items()}
        return aligned.init(key, views, variables)

    return Objective(run, init, aligned.commit, net.classes)

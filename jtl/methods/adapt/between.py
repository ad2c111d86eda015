"""Applies an alignment to views other than `source` and `target`: a second source, joined sources, or two sources."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops
from jtl.methods.adapt.own_norms import NAME
from jtl.methods.views import View, Views, needs
from jtl.objective import NONE, Objective, as_objective
from jtl.typing import Aux, Key, Params, Stats


def between(
    alignment: Objective | Callable,
    *,
    source: str | Sequence[str] = "source",
    target: str | Sequence[str] = "target",
) -> Objective:
    """The alignment applied to the views named here, in place of those called `source` and `target`.

    With several sources, `Σ_s d(D_s, D_t)` is a sum of such terms, and `d(∪_s D_s, D_t)` is one term on joined views.

    Args:
      alignment: any alignment for `adapt`. Two of the same kind need different names, such as
        `coral(name="coral_second")`.
      source: a view of the batch; several views are concatenated.
      target: likewise.

    Returns:
      An alignment for `adapt`. It sees the other views of the batch under their own names.

    Raises:
      ValueError: if no view is named; while tracing, for a missing view.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.alignments import between, coral
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> terms = [coral(), between(coral(name="coral_second"), source="second")]
      >>> objective = jtl.adapt(net, alignments=terms, labelled=("source", "second"))

    Peng et al., Moment Matching for Multi-Source Domain Adaptation, 2019, arXiv 1812.01754, sums over pairs of domains.
    """
    inner = as_objective(alignment)
    named = {"source": _listed(source), "target": _listed(target)}
    if not all(named.values()):
        raise ValueError(f"source={source!r}, target={target!r}: each names at least one view")

    def renamed(views: Views) -> Views:
        wanted = [name for names in named.values() for name in names]
        needs(views, wanted, "between")
        return {**views, **{role: _joined([views[name] for name in names]) for role, names in named.items()}}

    def run(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[Any, Aux]:
        return inner(_own_norms_of(params, named), stats, renamed(views), key, step)

    def init(key: Key, views: Views, given: Any = NONE) -> Any:
        return inner.init(key, jax.eval_shape(renamed, views), given)

    return Objective(run, init, inner.commit)


def _own_norms_of(params: Params, named: Mapping[str, Sequence[str]]) -> Params:
    """The parameters, with each domain's own normalisation layers under the name that the alignment uses."""
    if NAME not in params:
        return params
    own = {name: layers for name, layers in params[NAME].items() if name not in named}
    own |= {role: params[NAME][name] for role, names in named.items() for name in names if name in params[NAME]}
    return {**params, NAME: own}


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _joined(views: Sequence[View]) -> View:
    """One view with the rows of several; entries that one of them lacks, such as labels, are left out."""
    if len(views) == 1:
        return views[0]
    features = {n: _rows([v.features[n] for v in views]) for n in views[0].features}
    masks = [ops.kept(view.mask, jax.tree.leaves(view.x)[0].shape[0]) for view in views]
    given = [view.rows["weights"] for view in views if view.rows.get("weights") is not None]
    if given:  # a view without weights has those of all ones
        views = [_weighed(view, jnp.shape(given[0])[1:]) for view in views]
    others = set.intersection(*(set(view.rows) for view in views))
    return View(
        features,
        _rows([view.output for view in views]),
        _rows([view.x for view in views]),
        None if any(view.y is None for view in views) else _rows([view.y for view in views]),
        None if all(view.mask is None for view in views) else jnp.concatenate(masks),
        {name: _rows([view.rows[name] for view in views]) for name in sorted(others)},
    )


def _weighed(view: View, shape: tuple[int, ...]) -> View:
    ones = jnp.ones((jax.tree.leaves(view.x)[0].shape[0], *shape))
    return view if view.rows.get("weights") is not None else view._replace(rows={**view.rows, "weights": ones})


def _rows(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)

"""Views, the input of an alignment: the outputs of one forward pass over the rows of several domains."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jtl import ops
from jtl.methods.finetune.finetune import weights_without
from jtl.methods.views import View as View
from jtl.methods.views import Views as Views
from jtl.model import Model, Variables
from jtl.networks import called
from jtl.typing import Batch, Key, Params, Stats


def look(net: Model, params: Params, stats: Stats, batch: Batch, key: Key | None) -> tuple[Views, Stats]:
    """One pass over the rows of all domains in training mode, so that BatchNorm sees them together.

    Raises:
      TypeError: for a model that is not a `jtl.network(backbone=..., head=...)`.
      ValueError: for a batch without views, or views whose inputs differ in structure or in the shape of a row.
    """
    names = sorted(name for name, part in batch.items() if isinstance(part, Mapping) and "x" in part)
    if not names:
        raise ValueError(
            f"a batch of {sorted(batch)} holds no views: give {{'source': {{'x', 'y'}}, 'target': {{'x'}}}}"
        )
    first = batch[names[0]]["x"]
    for name in names[1:]:
        _same_rows(names[0], first, name, batch[name]["x"])
    parts = [ops.without_masked(batch[name]["x"], batch[name].get("mask")) for name in names]
    x = jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
    out, stats = called(net, Variables(params, stats), x, train=True, key=key)
    views, start = {}, 0
    for name in names:
        part = batch[name]
        rows = slice(start, start + jax.tree.leaves(part["x"])[0].shape[0])
        features, output = jax.tree.map(lambda a, rows=rows: a[rows], (out.features, out.output))
        others = {field: value for field, value in part.items() if field not in ("x", "y", "mask")}
        views[name] = View(features, output, part["x"], part.get("y"), part.get("mask"), others)
        start = rows.stop
    return views, stats


def ignoring(views: Views, ignore: int | None) -> Views:
    """The views with a weight of 0 for each element whose label is `ignore`, which all readers of labels leave out."""
    if ignore is None:
        return views
    found = dict(views)
    for name, view in views.items():
        if view.y is not None:
            weights = weights_without(ignore, view.y, view.rows.get("weights"))
            found[name] = view._replace(rows={**view.rows, "weights": weights})
    return found


def _same_rows(first: str, ours: Any, name: str, theirs: Any) -> None:
    shapes = [jax.tree.map(lambda a: jnp.shape(a)[1:], x) for x in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"a row of {name!r} has shape {shapes[1]}, and one of {first!r} {shapes[0]}: one network takes all views"
        )

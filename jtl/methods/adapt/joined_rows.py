"""The labelled rows of several domains as one batch, for methods that change what the head reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl import ops
from jtl.methods.adapt.views import View, Views
from jtl.methods.adapt.vrex import counted, labelled
from jtl.methods.views import classes_of_rows
from jtl.metrics.accumulate import Metric, measure
from jtl.model import Model


class Rows(NamedTuple):
    """The rows of the domains, one domain after another.

    Args:
      f: what the head reads, [rows, width].
      y: labels [rows], 0 in rows that do not count.
      weights: their weights, float [rows]; 0 for rows that do not count.
    """

    f: Array
    y: Array
    weights: Array


def names_of_some(domains: Sequence[str], who: str) -> tuple[str, ...]:
    """Returns the names of domains, of which one is enough, as a tuple.

    Raises:
      ValueError: for no name, or a name that occurs twice.
    """
    if isinstance(domains, str) or len(set(domains)) < max(1, len(domains)):
        raise ValueError(f"{who}: domains={domains!r}: give the names of labelled views, each once")
    return tuple(domains)


def joined_rows(head: Model, views: Views, domains: Sequence[str], who: str) -> Rows:
    """The rows of labelled domains, with zeros for NaN in rows that do not count.

    Raises:
      ValueError: for a domain that is missing or has no labels of classes, or a head that reads no vector.
    """
    parts = []
    for domain in domains:
        view = labelled(views, domain)
        y, count = classes_of_rows(view.y, who, domain), counted(view)
        count = jnp.ones(len(y)) if count is None else count.astype(jnp.float32)
        parts.append(Rows(ops.without_masked(_read(head, view, who), count), jnp.where(count > 0, y, 0), count))
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)


def told_of(views: Views, domains: Sequence[str], metrics: Mapping[str, Callable | Metric]) -> dict[str, Any]:
    """The metrics `<domain>/<metric>` of the outputs of the views."""
    told: dict[str, Any] = {}
    for domain in domains:
        view = labelled(views, domain)
        for name, metric in metrics.items():
            told[f"{domain}/{name}"] = measure(metric, view.output, view.y, counted(view), name=name)
    return told


def _read(head: Model, view: View, who: str) -> Array:
    f = head.reads(view.features, view.x)
    if not isinstance(f, jax.Array) or f.ndim != 2:
        raise ValueError(f"{who}: the head reads features of shapes {jax.tree.map(jnp.shape, f)}; give [batch, width]")
    return f

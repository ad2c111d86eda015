"""Sums that add up, so that a result does not depend on microbatches, masks, devices or the batch size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Shaped

from jtl.typing import Scalar

TOTAL = "loss"
"""The name under which an objective's total is reported, and the name of the term of a loss with only one."""


class Mean(NamedTuple):
    """A mean kept as its parts, so that parts of a batch add up to the whole exactly.

    Args:
      total: the sum of the values, float32 (float64 where the values are).
      count: how many values were summed; never a function of parameters.
    """

    total: Any
    count: Any

    @property
    def value(self) -> Array:
        """`total / count`; 0 if nothing was counted."""
        return jnp.where(self.count > 0, self.total / jnp.maximum(self.count, 1e-30), 0.0)

    def scale(self, factor: ArrayLike) -> "Mean":
        """The mean times a factor; the count stays."""
        return Mean(self.total * factor, self.count)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Any tree of sums, with the function that turns the sums of a whole data set into the result.

    Args:
      values: a tree of arrays; the trees of parts of a data set are added up.
      finish: a function from the tree to a number, an array, or a dict of these by name.
    """

    values: Any
    finish: Callable[[Any], Any] = field(metadata={"static": True})

    @property
    def value(self) -> Any:
        """The result of the sums."""
        return self.finish(self.values)


class Metric(NamedTuple):
    """A metric that is not a mean of one value per element, such as F1: sums over elements, and a `finish`.

    A plain function `metric(outputs, y) -> values` is a metric too: its values are averaged.

    Args:
      sums: `sums(outputs, y, weights) -> tree` of arrays. `weights` is None, or an array whose axes are the leading
        ones of `y`; an element of weight 0 must not count, even if it is NaN.
      finish: a function from the added trees to a number, an array, or a dict of these by name.
    """

    sums: Callable[[Any, Any, Any], Any]
    finish: Callable[[Any], Any]


Loss: TypeAlias = Any
"""What an objective may return as its loss: a scalar, a `Mean`, or a dict of either, whose values add up."""


def mean(values: Shaped[ArrayLike, "..."], mask: Any = None, weights: Any = None) -> Mean:
    """Sums one value per element over the elements that a mask keeps, under weights.

    `total = Σ_i m_i w_i v_i`, `count = Σ_i m_i w_i`. A value of weight 0 does not count, even if it is NaN.

    Args:
      values: one value per example [batch], or per element [batch, ...].
      mask: bool or float weights over leading dimensions of `values`, such as one per row; None for all ones.
      weights: likewise, such as one per element; 0 for padding and for labels to ignore.

    Raises:
      ValueError: if the shape of either is not a leading part of the shape of the values.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.metrics.accumulate import mean
      >>> float(mean(jnp.array([[1.0, 2.0], [6.0, 9.0]]), weights=jnp.array([[1, 1], [1, 0]])).value)
      3.0
    """
    v = jnp.asarray(values)
    v = v.astype(jnp.promote_types(v.dtype, jnp.float32))
    m = element_weights(v.shape, mask, weights)
    if m is None:
        return Mean(v.sum(), jnp.asarray(float(v.size), v.dtype))
    m = jnp.broadcast_to(m.astype(v.dtype).reshape(m.shape + (1,) * (v.ndim - m.ndim)), v.shape)
    return Mean((jnp.where(m > 0, v, 0.0) * m).sum(), m.sum())


def element_weights(shape: tuple[int, ...], mask: Any, weights: Any) -> Array | None:
    """The product of a mask and of weights, with as few leading dimensions as both need; None if both are None.

    Raises:
      ValueError: if the shape of either is not a leading part of `shape`.
    """
    given = [(name, jnp.asarray(w)) for name, w in (("mask", mask), ("weights", weights)) if w is not None]
    for name, w in given:
        if w.shape != shape[: w.ndim]:
            raise ValueError(f"{name} of shape {w.shape} does not fit values of shape {shape}: give one for each")
    if len(given) < 2:
        return given[0][1] if given else None
    (_, a), (_, b) = sorted(given, key=lambda pair: pair[1].ndim)
    return a.astype(jnp.float32).reshape(a.shape + (1,) * (b.ndim - a.ndim)) * b


def measure(
    metric: Callable | Metric, outputs: Any, y: Any, weights: Any = None, *, name: str = "metric"
) -> Mean | Sums:
    """A metric of one batch, as sums that add up over batches.

    Args:
      metric: a function that returns one value per row or element of `y`, or a `Metric`.
      outputs: the outputs of the network.
      y: the labels.
      weights: None, or weights over leading axes of `y`.
      name: the name of the metric, for messages.

    Raises:
      ValueError: for values of another shape, such as a confusion matrix, whose mean says nothing.
    """
    if isinstance(metric, Metric):
        return Sums(metric.sums(outputs, y, weights), metric.finish)
    found = jnp.asarray(metric(outputs, y))
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(y)]
    if not found.ndim or all(found.shape != shape[: found.ndim] for shape in shapes):
        raise ValueError(
            f"{name!r} has the shape {found.shape} for labels of shape {', '.join(map(str, shapes))}, and only one"
            " value for each row or element of the labels can be averaged: return these, without a mean; a matrix or"
            " another sum over rows is a jtl.Metric, as jtl.metrics.confusion(classes) is"
        )
    return mean(found, weights)


def as_terms(loss: Loss) -> dict[str, Mean]:
    """Any loss as a dict of `Mean`: a scalar has count 1, so equal parts of a batch weigh the same."""
    if isinstance(loss, Mean):
        return {"loss": loss}
    if isinstance(loss, Mapping):
        return {name: _as_mean(value) for name, value in loss.items()}
    return {"loss": _as_mean(loss)}


def as_sums(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric of an objective as `Mean` or `Sums`: a scalar has count 1."""
    return {name: m if isinstance(m, Sums) else _as_mean(m) for name, m in metrics.items()}


def distinct(terms: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Checks that neither a metric nor one of several terms takes the name of the total.

    Raises:
      ValueError: with the names, if one of them is "loss".
    """
    for kind, names in (("term", terms if len(terms) > 1 else ()), ("metric", metrics)):
        if TOTAL in names:
            raise ValueError(f"{TOTAL!r} is the name of the total: call this {kind} of {sorted(names)} something else")


def _as_mean(value: Any) -> Mean:
    if isinstance(value, Mean):
        return value
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"an objective returned a loss or a metric of shape {value.shape}; reduce it first, with"
            " jtl.mean(values, mask), or give a jtl.Sums"
        )
    return Mean(value, jnp.ones((), value.dtype))


def total(loss: Loss) -> Scalar:
    """The loss as one number: the sum of its terms' means."""
    return jnp.asarray(sum(term.value for term in as_terms(loss).values()))


def values(sums: Mapping[str, Any]) -> dict[str, Any]:
    """The result of every `Mean` and `Sums`; if a `Sums` has several results, they are named `name/result`."""
    found: dict[str, Any] = {}
    for name, m in as_sums(sums).items():
        result = m.value
        found |= {f"{name}/{n}": v for n, v in result.items()} if isinstance(result, Mapping) else {name: result}
    return found


def added(a: Any, b: Any) -> Any:
    """Adds the sums of two parts, on the host and in float64."""
    leaves, tree = jax.tree.flatten(a)  # by leaves: another trace may have made another, equal `finish`
    sums = [np.add(x, y, dtype=np.float64) for x, y in zip(leaves, jax.tree.leaves(b), strict=True)]
    return jax.tree.unflatten(tree, sums)

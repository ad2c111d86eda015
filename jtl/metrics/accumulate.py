"""Sums with their counts: the one reduction that microbatches, masks, devices and batches do not change."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Shaped

from jtl.typing import Scalar


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
        """`total / count`, and 0 where nothing was counted."""
        return jnp.where(self.count > 0, self.total / jnp.maximum(self.count, 1e-30), 0.0)

    def scale(self, factor: ArrayLike) -> "Mean":
        """The mean times a factor: the count stays."""
        return Mean(self.total * factor, self.count)


Loss: TypeAlias = Any
"""What an objective may return as its loss: a scalar, a `Mean`, or a dict of either, whose values add up."""


def mean(values: Shaped[ArrayLike, "..."], mask: Any = None) -> Mean:
    """Sums one value per example over the examples that a mask keeps.

    `total = Σ_i m_i v_i`, `count = Σ_i m_i`; a masked value does not count even where it is NaN.

    Args:
      values: one value per example, any shape.
      mask: bool or float weights of the leading dimensions of `values`, or None for all ones.

    Raises:
      ValueError: where the mask's shape is not a leading part of the shape of the values.
    """
    v = jnp.asarray(values)
    v = v.astype(jnp.promote_types(v.dtype, jnp.float32))
    if mask is None:
        return Mean(v.sum(), jnp.asarray(float(v.size), v.dtype))
    m = jnp.asarray(mask)
    if m.shape != v.shape[: m.ndim]:
        raise ValueError(f"mask of shape {m.shape} does not fit values of shape {v.shape}: give one mask value each")
    m = jnp.broadcast_to(m.astype(v.dtype).reshape(m.shape + (1,) * (v.ndim - m.ndim)), v.shape)
    return Mean((jnp.where(m > 0, v, 0.0) * m).sum(), m.sum())


def as_terms(loss: Loss) -> dict[str, Mean]:
    """Any loss as a dict of `Mean`: a scalar counts once, so equal parts of a batch weigh the same."""
    if isinstance(loss, Mean):
        return {"loss": loss}
    if isinstance(loss, Mapping):
        return {name: _as_mean(value) for name, value in loss.items()}
    return {"loss": _as_mean(loss)}


def _as_mean(value: Any) -> Mean:
    if isinstance(value, Mean):
        return value
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"an objective returned a loss of shape {value.shape}; reduce it first, with jtl.mean(values, mask)"
        )
    return Mean(value, jnp.ones((), value.dtype))


def total(loss: Loss) -> Scalar:
    """The loss as one number: the sum of its terms' means."""
    return jnp.asarray(sum(term.value for term in as_terms(loss).values()))


def add(a: dict[str, Mean], b: dict[str, Mean]) -> dict[str, Mean]:
    """Two parts' sums and counts, added name by name."""
    return jax.tree.map(jnp.add, a, b)


def values(means: Mapping[str, Any]) -> dict[str, Array]:
    """Every `Mean` of a dict as its value."""
    return {name: _as_mean(m).value for name, m in means.items()}

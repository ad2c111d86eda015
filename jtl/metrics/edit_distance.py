"""Edit distance of sequences, and the error rate of recognised characters or words."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Integer

from jtl.metrics.accumulate import Mean, Metric
from jtl.metrics.elements import spread


def edit_distance(
    a: Integer[ArrayLike, "rows _"], b: Integer[ArrayLike, "_ _"], *, pad: int = 0
) -> Integer[Array, "rows"]:
    """Levenshtein's distance of each pair of rows: the fewest insertions, deletions and substitutions.

    Args:
      a: integers [rows, n], ended by `pad`.
      b: integers [rows, m], likewise.
      pad: the number that follows the last element; it is not an element itself.

    Returns:
      int32 [rows].

    Raises:
      ValueError: for different numbers of rows, or arrays that are not integers [rows, n].

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.metrics import edit_distance
      >>> edit_distance(jnp.array([[1, 2, 3, 0]]), jnp.array([[1, 3, 0]])).tolist()
      [1]

    Levenshtein, Binary Codes Capable of Correcting Deletions, Insertions, and Reversals, 1966.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    whole = jnp.issubdtype(a.dtype, jnp.integer) and jnp.issubdtype(b.dtype, jnp.integer)
    if not whole or a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(
            f"sequences of {a.dtype}{a.shape} and {b.dtype}{b.shape}: give integers [rows, n], as many rows of each"
        )
    place = jnp.arange(b.shape[1] + 1)[None]

    def element(costs: Array, one: Array) -> tuple[Array, None]:
        replaced = costs[:, :-1] + (one[:, None] != b)
        some = jnp.minimum(costs + 1, jnp.pad(replaced, ((0, 0), (1, 0)), constant_values=b.shape[1] + a.shape[1] + 1))
        # Insertions cost 1 per step along the row: a running minimum finds the cheapest place to start from.
        new = lax.cummin(some - place, axis=1) + place
        return jnp.where((one == pad)[:, None], costs, new), None

    start = jnp.broadcast_to(place, (b.shape[0], b.shape[1] + 1)).astype(jnp.int32)
    costs, _ = lax.scan(element, start, a.T)
    length = (b != pad).sum(1)
    return jnp.take_along_axis(costs, length[:, None], 1)[:, 0]


def error_rate(*, pad: int = 0) -> Metric:
    """`Σ_i d(ŷ_i, y_i) / Σ_i |y_i|`, d the edit distance: the character or word error rate.

    Args:
      pad: the number that ends a sequence.

    Returns:
      A metric of predicted sequences [batch, n] and y [batch, m], rows of integers, and weights [batch].

    Raises:
      ValueError: while tracing, for different numbers of rows, or weights that are not one per row.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> metric = jtl.metrics.error_rate()
      >>> y = jnp.array([[1, 2, 3], [4, 0, 0]])
      >>> round(float(metric.finish(metric.sums(jnp.array([[1, 3, 0], [4, 0, 0]]), y, None))), 2)
      0.25
    """

    def sums(predicted: Any, y: Any, weights: Any) -> Mean:
        y = jnp.asarray(y)
        edits, w = edit_distance(predicted, y, pad=pad), spread(weights, y.shape[:1])
        return Mean((edits * w).sum(), ((y != pad).sum(1) * w).sum())

    return Metric(sums, _value)


def _value(mean: Mean) -> Array:
    return mean.value

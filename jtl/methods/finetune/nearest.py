"""Neighbours and clusters of features from a frozen backbone: k nearest neighbours and k-means."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jtl.methods.finetune.on_features import check_lengths, checked_examples, checked_labels


class Clusters(NamedTuple):
    """The result of k-means.

    Attributes:
      centres: [k, width].
      labels: [examples], the index of each example's nearest centre.
      inertia: the sum of squared distances to the nearest centres.
    """

    centres: Any
    labels: Any
    inertia: float


def neighbours(
    x: Float[ArrayLike, "examples width"],
    y: Int[ArrayLike, "examples"],
    query: Float[ArrayLike, "queries query_width"],
    k: int,
    *,
    classes: int,
    chunk: int = 1024,
) -> Array:
    """The share of each class among the k nearest examples of every query, `p_c = Σ_{i in N_k} 1[y_i = c] / k`.

    Distances are Euclidean.

    With features normalised to length 1 first, the order is that of cosine similarity.

    Args:
      x: features of the examples.
      y: their labels in [0, classes).
      query: features of the queries.
      k: number of neighbours, at most the number of examples.
      classes: number of classes.
      chunk: number of queries to process at once; the result does not depend on it.

    Returns:
      [queries, classes], rows that sum to 1.

    Raises:
      ValueError: for k or labels out of range, features that are not finite, or lengths or widths that differ.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import neighbours
      >>> x = np.array([[0.0], [1.0], [5.0]], np.float32)
      >>> neighbours(x, np.array([0, 1, 1]), np.array([[0.1]], np.float32), 2, classes=2).tolist()
      [[0.5, 0.5]]

    Cover and Hart, Nearest Neighbor Pattern Classification, 1967.
    """
    x, y, query = checked_examples(x), checked_labels(y, classes), checked_examples(query, "query")
    check_lengths(x, y)
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k}: it is at least 1 and at most the number of examples, {len(x)}")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: it is at least 1")
    if query.shape[1] != x.shape[1]:
        raise ValueError(f"query has width {query.shape[1]}, the examples {x.shape[1]}; they must be the same")
    parts = [_votes(x, y, query[i : i + chunk], k, classes) for i in range(0, len(query), chunk)]
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnums=(3, 4))
def _votes(x: Array, y: Array, query: Array, k: int, classes: int) -> Array:
    nearest = jax.lax.top_k(-_distances(query, x), k)[1]
    return jax.nn.one_hot(y[nearest], classes).mean(1)


def k_means(
    x: Float[ArrayLike, "examples width"], start: Float[ArrayLike, "k start_width"], max_steps: int = 300
) -> Clusters:
    """Lloyd's iterations from given centres until no label changes; `Σ_i min_j ‖x_i − c_j‖²` never increases.

    A centre that loses all its examples stays where it is.

    Args:
      x: features.
      start: the initial centres, such as k of the examples, or a source's class means to label a target.
      max_steps: the largest number of iterations.

    Raises:
      ValueError: for features or centres that are not finite or differ in width; for max_steps below 1.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import k_means
      >>> found = k_means(np.array([[0.0], [1.0], [9.0]], np.float32), np.array([[0.0], [5.0]], np.float32))
      >>> found.centres.tolist(), found.labels.tolist(), float(found.inertia)
      ([[0.5], [9.0]], [0, 0, 1], 0.5)

    Lloyd, Least Squares Quantization in PCM, 1982.
    """
    x, start = checked_examples(x), checked_examples(start, "start")
    if start.shape[1] != x.shape[1]:
        raise ValueError(f"start has width {start.shape[1]}, the examples {x.shape[1]}; they must be the same")
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps}: it is at least 1")
    centres, labels, inertia = _lloyd(x, start.astype(x.dtype), max_steps)
    return Clusters(centres, labels, float(inertia))


@partial(jax.jit, static_argnums=2)
def _lloyd(x: Array, start: Array, max_steps: int) -> tuple[Array, Array, Array]:
    def nearest(centres: Array) -> Array:
        return _distances(x, centres).argmin(1)

    def step(carry: Any) -> Any:
        centres, labels, _, i = carry
        of = jax.nn.one_hot(labels, len(start), dtype=x.dtype)
        counts = of.sum(0)[:, None]
        centres = jnp.where(counts > 0, (of.T @ x) / jnp.maximum(counts, 1), centres)
        found = nearest(centres)
        return centres, found, (found != labels).any(), i + 1

    first = (start, nearest(start), jnp.array(True), 0)
    centres, labels, _, _ = jax.lax.while_loop(lambda c: c[2] & (c[3] < max_steps), step, first)
    return centres, labels, ((x - centres[labels]) ** 2).sum()


def _distances(a: Array, b: Array) -> Array:
    """Squared distances minus each row's constant ‖a‖², relative to the mean of b to limit cancellation in float32."""
    middle = b.mean(0)[None]
    a, b = a - middle, b - middle
    return (b**2).sum(1)[None] - 2 * jnp.matmul(a, b.T, precision="highest")

"""LaplacianShot: nearest prototypes, with neighbouring queries drawn to the same class."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer, Shaped

from jtl.checked import whole, within
from jtl.methods.meta.memory import unit
from jtl.methods.meta.transductive import Task, from_middle, task_of
from jtl.methods.terms import near_rows, squared_distances

SHARPNESS = 10.0
"""The factor of the cosine in the shares of rectified prototypes."""


def laplacian_shot(
    support: Float[ArrayLike, "rows features"],
    y: Integer[ArrayLike, "rows"],
    queries: Float[ArrayLike, "queries features"],
    *,
    way: int,
    strength: float = 1.0,
    neighbours: int = 2,
    rectified: bool = False,
    steps: int = 20,
    weights: Shaped[ArrayLike, "rows"] | None = None,
    query_mask: Shaped[ArrayLike, "queries"] | None = None,
    centre: Float[ArrayLike, "features"] | None = None,
    normalise: bool = True,
) -> Float[Array, "queries way"]:
    """Log-probabilities of the queries of a task: `p_q ∝ exp(−a_q + λ Σ_r w_qr p_r)`, repeated from `p_q ∝ exp(−a_q)`.

    `a_qk = ‖z_q − c_k‖²`, c_k the mean of class k. `w_qr` is 1 if query r is one of the nearest neighbours of query q,
    else 0. For symmetric w the updates decrease bounds of `Σ_q p_q (log p_q + a_q) − λ/2 Σ_qr w_qr p_q p_r`.

    It is transductive: each result depends on all queries of the task. Other queries beside it give a query another
    result. `together` evaluates it over episodes; `jax.vmap` maps it over tasks.

    Args:
      support: features of the support set.
      y: its labels in [0, way). A label outside makes the result NaN, if the row counts.
      queries: features of all queries of the task.
      way: number of classes. A class without support gets probability 0.
      strength: λ; with 0 the queries go to the nearest prototypes. The paper chooses it from 0.1 to 1.5 on validation
        classes.
      neighbours: how many nearest neighbours of a query count; the authors' `knn=3` counts the query itself.
      rectified: shift the queries by the difference of the means of both sets, and average prototypes over the support
        set and the queries that the cosine gives to a class, each row times its share `softmax_k(10 cos(z, c_k))`.
      steps: number of updates.
      weights: weight or mask of each row of the support set; None for 1.
      query_mask: which queries count; the others have no effect, and their results mean nothing.
      centre: the mean of the base classes' features, which is subtracted.
      normalise: scale all features to length 1, after subtracting the centre.

    Raises:
      ValueError: for numbers out of range, or arrays that do not fit each other.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> support, queries = jnp.array([[0.0], [1.0]]), jnp.array([[0.2], [0.3], [0.45], [0.52]])
      >>> for strength in (0.0, 1.0):
      ...     p = jtl.learners.laplacian_shot(
      ...         support, jnp.arange(2), queries, way=2, strength=strength, normalise=False
      ...     )
      ...     print(p.argmax(1).tolist())
      [0, 0, 0, 1]
      [0, 0, 0, 0]

    Ziko et al., Laplacian Regularized Few-Shot Learning, 2020, arXiv 2006.15486.
    """
    whole(1, way=way, neighbours=neighbours)
    whole(0, steps=steps)
    within("[0, inf)", strength=strength)
    task = task_of(support, y, queries, way, weights, query_mask, centre, normalise)
    task = from_middle(_rectified(task) if rectified else task)
    near = jnp.where(task.present[None], -squared_distances(task.queries, task.means), -jnp.inf)
    w = near_rows(task.queries, task.kept, neighbours)

    def step(log: Array, _: None) -> tuple[Array, None]:
        pull = jnp.matmul(w, jnp.exp(log), precision="highest")
        return jax.nn.log_softmax((near + strength * pull).astype(log.dtype)), None

    return jax.lax.scan(step, jax.nn.log_softmax(near), None, steps)[0]


def _rectified(task: Task) -> Task:
    """The task with shifted queries and prototypes of both sets."""
    z, member, q, kept, means, present = task
    here = member.sum(1)
    middle = (here[:, None] * z).sum(0) / jnp.maximum(here.sum(), 1e-30)
    shift = middle - jnp.where(kept[:, None], q, 0).sum(0) / jnp.maximum(kept.sum(), 1)
    q = jnp.where(kept[:, None], q + shift[None], 0)
    rows = jnp.concatenate([z, q])
    cosine = jnp.where(present[None], unit(rows) @ unit(means).T, -jnp.inf)
    guessed = jax.nn.one_hot(cosine[len(z) :].argmax(1), len(means), dtype=z.dtype)
    both = jnp.concatenate([member, jnp.where(kept[:, None], guessed, 0)])
    share = both * jax.nn.softmax(SHARPNESS * cosine)
    return task._replace(queries=q, means=share.T @ rows / jnp.maximum(both.sum(0), 1e-30)[:, None])

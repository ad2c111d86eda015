"""Judges the queries of a task together: what transductive learners share, and how `over_episodes` evaluates them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl import losses, ops
from jtl.heads import identity, reading
from jtl.methods.finetune.finetune import ACCURACY, judged
from jtl.methods.meta.memory import memory_of, unit
from jtl.methods.meta.prototypes import head_of
from jtl.methods.terms import clean
from jtl.model import Model, Variables
from jtl.networks import called, network, parts_of
from jtl.objective import Objective, init_of
from jtl.typing import Aux, Batch, Key, Params, Stats


def together(
    net: Model,
    method: Callable[..., Any],
    loss: Callable = losses.cross_entropy,
    *,
    metrics: Mapping[str, Callable] = ACCURACY,
) -> Objective:
    """The objective `ℓ(m(S, Q), y)` of a transductive method m, which sees the features of all queries Q of a task.

    The result for a query depends on the other queries, so it is no result for queries that come one by one. Call the
    judge transductive where you report it. Masked queries have no effect.

    Args:
      net: the network that `memorise(net, way=..., train=False)` adapts. The `centre` of a `nearest_mean` head is used;
        then `jtl.evaluation(net)` is the inductive judge of the same adaptation.
      method: `laplacian_shot` or `information_maximised`, with `functools.partial` if it has other options; or any
        `method(support, y, queries, way=, weights=, query_mask=, centre=) -> log-probabilities`.
      loss: as in `jtl.finetune`.
      metrics: as in `jtl.finetune`.

    Returns:
      An objective on query sets, for `over_episodes` and `jtl.meta`.

    Raises:
      ValueError: for a network that does not have exactly one head; when called, if the head has no support set.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.learners.nearest_mean())
      >>> adapt = jtl.learners.memorise(net, way=2, train=False)
      >>> judges = {"inductive": jtl.evaluation(net)}
      >>> judges["transductive"] = jtl.learners.together(net, jtl.learners.laplacian_shot)
      >>> data = jtl.data.episodes(jnp.ones((4, 6, 5)), way=2, shot=1, query=3, tasks=2, steps=5)
      >>> variables = net.init(jax.random.key(0), jnp.ones((1, 5)))
      >>> sorted(jtl.learners.over_episodes(adapt, judges, variables, data))
      ['inductive', 'transductive']
    """
    head = head_of(net)
    own = parts_of(net)
    bare = network(**{**own, head: reading(identity(), own[head].reads)})

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del key, step
        mask, mine = batch.get("mask"), params.get(head, {})
        support, member = memory_of(mine)
        x = ops.without_masked(batch["x"], mask)
        queries = called(bare, Variables(params, stats), x, train=False)[0].read
        logits = method(
            support,
            member.argmax(1),
            queries,
            way=member.shape[1],
            weights=member.sum(1),
            query_mask=mask,
            centre=mine.get("centre"),
        )
        value, found = judged(logits, batch, loss, metrics)
        return value, Aux(stats, found, {"output": logits, "read": queries, "y": batch["y"]})

    return Objective(run, init_of(net))


class Task(NamedTuple):
    """The features of a task as a transductive method uses them, in at least float32.

    Args:
      support: features, with zeros in rows that do not count.
      member: the weight of each row in each class.
      queries: features, with zeros in masked rows.
      kept: which queries count.
      means: the mean of each class; 0 for an absent one.
      present: which classes have support; all if none has.
    """

    support: Float[Array, "rows features"]
    member: Float[Array, "rows way"]
    queries: Float[Array, "queries features"]
    kept: Bool[Array, " queries"]
    means: Float[Array, "way features"]
    present: Bool[Array, " way"]


def task_of(
    support: Any, y: Any, queries: Any, way: int, weights: Any, query_mask: Any, centre: Any, normalise: bool
) -> Task:
    """Checks the arrays of a task, and centres and scales the features.

    Raises:
      ValueError: for arrays that do not fit each other.
    """
    z, member = labelled(support, y, way, weights)
    q, kept = clean(queries, query_mask)
    if q.ndim != 2 or q.shape[1] != z.shape[1]:
        raise ValueError(f"queries of shape {q.shape} do not fit a support set of shape {z.shape}")
    q = q.astype(z.dtype)
    if centre is not None:
        middle = jnp.asarray(centre).astype(z.dtype)
        if middle.shape != z.shape[1:]:
            raise ValueError(f"centre of shape {middle.shape} does not fit a support set of shape {z.shape}")
        z, q = z - middle[None], q - middle[None]
    if normalise:
        z, q = unit(z), unit(q)
    used = ~(member.sum(1) <= 0)
    z, q = jnp.where(used[:, None], z, 0), jnp.where(kept[:, None], q, 0)
    counts = member.sum(0)
    found = (counts > 0) | ~(counts > 0).any()
    return Task(z, member, q, kept, member.T @ z / jnp.maximum(counts, 1e-30)[:, None], found)


def from_middle(task: Task) -> Task:
    """The task with its origin at the mean of the classes' means, because squares of long features lose digits."""
    middle = task.means.sum(0)[None] / task.present.sum()  # the mean of an absent class is 0
    return task._replace(support=task.support - middle, queries=task.queries - middle, means=task.means - middle)


def labelled(
    support: Any, y: Any, way: int, weights: Any
) -> tuple[Float[Array, "rows features"], Float[Array, "rows way"]]:
    """The features of a support set, with zeros in rows of weight 0, and the weight of each row in each class.

    The weights of a row whose label lies outside [0, way) are NaN.

    Raises:
      ValueError: for features that are no matrix, or labels that are not one integer per row.
    """
    z, y = jnp.asarray(support), jnp.asarray(y)
    if z.ndim != 2 or y.shape != z.shape[:1] or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"a support set of shape {z.shape} with labels of shape {y.shape} and dtype {y.dtype}: give features"
            " [rows, width] and integers [rows]"
        )
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    member = jnp.where(((y >= 0) & (y < way))[:, None], jax.nn.one_hot(y, way, dtype=z.dtype), jnp.nan)
    if weights is None:
        return z, member
    each = jnp.asarray(weights).astype(z.dtype)
    if each.shape != y.shape:
        raise ValueError(f"weights of shape {each.shape}: give one for each of {len(y)} rows")
    used = ~(each <= 0)[:, None]  # a weight of NaN counts, and makes the result NaN
    return jnp.where(used, z, 0), jnp.where(used, member * each[:, None], 0)

"""Helpers that terms of a loss share: weights, a term's own statistics, the rows of a view, squared distances."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops
from jtl.methods.views import View, Views, classes_of_rows, needs
from jtl.metrics.accumulate import Mean, as_terms, element_weights
from jtl.model import Variables
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def on_views(value: Callable[[Views], Any], weight: float | Schedule, name: str) -> Objective:
    """The objective `weight · value(views)` on views, as one term called `name`.

    Raises:
      ValueError: for a weight that is negative or not finite.
    """
    checked(weight, name)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        return {name: weighted(value(views), weight, step)}, Aux(stats)

    return Objective(run)


def weighted(value: Any, weight: float | Schedule, step: Any) -> Any:
    """Multiplies a scalar or a `Mean` by a number or a function of the step."""
    return as_terms(value)["loss"].scale(at_step(weight, step))


def at_step(weight: float | Schedule, step: Any) -> Any:
    """The weight at a step; a number is the weight at every step."""
    return weight(step) if callable(weight) else weight


def checked(weight: float | Schedule, name: str, option: str = "weight") -> None:
    """Raises if a weight is a number that no term can have."""
    if not callable(weight) and not 0 <= weight < float("inf"):
        raise ValueError(
            f"{name}: {option}={weight}; give a finite number that is not negative, or a function of steps"
        )


def whole(part: Mean) -> Array:
    """A mean over the rows of all devices, as one number; 0 if there are none."""
    total, count = ops.batch_sum((part.total, part.count))
    return Mean(total, count).value


def with_own(given: Variables, name: str, value: Any) -> Variables:
    """The variables with a term's own value added to the statistics under its name.

    The arrays are copied, because a step donates the memory of its state, and an array can be donated only once.

    Raises:
      ValueError: if the name is taken.
    """
    if name in given.stats:
        raise ValueError(f"{name}: the statistics already hold {name!r}; give the term another name")
    return given._replace(stats={**given.stats, name: jax.tree.map(jnp.array, value)})


def kept_or_new(given: Variables, name: str, start: Any) -> Variables:
    """The given variables if their statistics hold a value like `start` under the name, else with `start` there.

    So a memory that is given, as that of an earlier run, goes on. Like it means the same tree and shapes.

    Raises:
      ValueError: if the name is taken by another value.
    """
    there = name in given.stats and jax.tree.map(jnp.shape, given.stats[name]) == jax.tree.map(jnp.shape, start)
    return given if there else with_own(given, name, start)


def view_of(views: Views, of: str, who: str) -> View:
    """A view by its name.

    Raises:
      ValueError: if the batch has no such view.
    """
    needs(views, (of,), who)
    return views[of]


def features_of(views: Views, of: str, feature: str, who: str) -> tuple[Array, Array]:
    """Like `row_features`, with the rows of the other pmapped devices too, for terms that are not sums over rows."""
    f, kept = row_features(views, of, feature, who)
    return ops.gather(f), ops.gather(kept)


def row_features(views: Views, of: str, feature: str, who: str) -> tuple[Array, Array]:
    """A feature [batch, width] of a view's rows, with zeros in rows that do not count, and which rows count.

    Raises:
      ValueError: for a missing view or feature, or a feature of another rank.
    """
    view = view_of(views, of, who)
    f = view.features.get(feature)
    if f is None or f.ndim != 2:
        shapes = {n: jnp.shape(a) for n, a in view.features.items()}
        raise ValueError(f"{who}: feature={feature!r} of {of!r} must be [batch, width]; there are {shapes}")
    return clean(f, view.mask)


def logits_of(views: Views, of: str, who: str) -> tuple[Array, Array]:
    """Like `row_logits`, with the rows of the other pmapped devices too, for terms that are not sums over rows."""
    z, kept = row_logits(views, of, who)
    return ops.gather(z), ops.gather(kept)


def row_logits(views: Views, of: str, who: str, *, least: int = 2) -> tuple[Array, Array]:
    """The output [batch, classes] of a view's rows, with zeros in rows that do not count, and which rows count.

    Args:
      views: the views.
      of: a view's name.
      who: what reads it, for the message.
      least: the smallest number of classes. The softmax of one logit is always 1, and a term of it would be constant.

    Raises:
      ValueError: for a missing view, or an output that is not such an array, or has fewer classes.
    """
    view = view_of(views, of, who)
    z = view.output
    if not isinstance(z, jax.Array) or z.ndim != 2 or z.shape[1] < least:
        shapes, more = jax.tree.map(jnp.shape, z), "" if least < 2 else " of two classes or more"
        raise ValueError(f"{who}: the output of {of!r} must be logits [batch, classes]{more}, and is {shapes}")
    return clean(z, view.mask)


def map_logits(views: Views, of: str, who: str) -> tuple[Array, Array]:
    """The output [batch, height, width, classes] of a view, with zeros in rows that do not count, and which rows count.

    Raises:
      ValueError: for a missing view, or an output that is not such an array of two classes or more.
    """
    view = view_of(views, of, who)
    z = view.output
    if not isinstance(z, jax.Array) or z.ndim != 4 or z.shape[-1] < 2:
        shapes = jax.tree.map(jnp.shape, z)
        raise ValueError(
            f"{who}: the output of {of!r} must be maps of logits [batch, height, width, classes] of two classes or"
            f" more, and is {shapes}"
        )
    return clean(z, view.mask)


def paired_logits(views: Views, weak: str, strong: str, who: str) -> tuple[Array, Array, Array]:
    """The logits of two views of the same examples, and which rows count in both.

    Raises:
      ValueError: for a missing view, or views that differ in size.
    """
    (p, mp), (q, mq) = row_logits(views, weak, who), row_logits(views, strong, who)
    if p.shape != q.shape:
        raise ValueError(f"{who}: {weak!r} has {len(p)} rows and {strong!r} {len(q)}: give two views of the same ones")
    return p, q, mp & mq


def labels_of(views: Views, of: str, who: str) -> Array:
    """The integer labels [batch] of all rows of a view, of all devices; -1 for rows of weight 0.

    Raises:
      ValueError: if the view has none, or weights that do not fit them.
    """
    view = view_of(views, of, who)
    y = classes_of_rows(view.y, who, of)
    weights = element_weights(y.shape, None, view.rows.get("weights"))
    return ops.gather(y if weights is None else jnp.where(weights > 0, y, -1))


def weighed(view: View, count: int) -> Array:
    """Which of a view's rows have a weight, [rows]; those of a label to `ignore` have none."""
    weights = element_weights((count,), None, view.rows.get("weights"))
    return jnp.ones(count, bool) if weights is None else weights > 0


def in_turn(kept: Array, count: int) -> Array:
    """The indices of `count` rows: those that count, in their order, which start over if they are fewer.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.terms import in_turn
      >>> in_turn(jnp.array([False, True, True]), 5).tolist()
      [1, 2, 1, 2, 1]
    """
    return jnp.argsort(~kept, stable=True)[jnp.arange(count) % jnp.maximum(kept.sum(), 1)]


def clean(f: Any, mask: Any = None) -> tuple[Array, Array]:
    """The rows in at least float32, with zeros in masked rows, and which rows count, bool [batch].

    Masked rows become zeros, because a NaN multiplied by 0 would still reach every gradient.
    """
    f = jnp.asarray(f)
    f = f.astype(jnp.promote_types(f.dtype, jnp.float32))
    if mask is None:
        return f, jnp.ones(f.shape[0], bool)
    kept = jnp.asarray(mask) > 0
    if kept.shape != f.shape[:1]:
        raise ValueError(f"mask of shape {kept.shape} does not fit {f.shape[0]} rows: give one value for each")
    return jnp.where(kept.reshape((-1,) + (1,) * (f.ndim - 1)), f, 0.0), kept


def mean_row(f: Array, kept: Array) -> Array:
    """The mean of the rows that count; 0 if there are none."""
    return jnp.where(kept[:, None], f, 0.0).sum(0) / jnp.maximum(kept.sum(), 1)


def squared_distances(a: Array, b: Array) -> Array:
    """`‖a_i − b_j‖²`, [rows of a, rows of b], by one matrix product and thus without a three-dimensional array."""
    same = jnp.matmul(a, b.T, precision="highest")  # full precision, because large products cancel
    return jnp.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * same, 0.0)


def own_squared_distances(f: Array) -> Array:
    """`‖f_i − f_j‖²`, [rows, rows]: equals `squared_distances(f, f)`, with one matrix product fewer in the gradient."""
    lengths = (f**2).sum(1)
    return jnp.maximum(lengths[:, None] + lengths[None] - 2 * _gram(f), 0.0)


@jax.custom_jvp
def _gram(f: Array) -> Array:
    return jnp.matmul(f, f.T, precision="highest")


@_gram.defjvp
def _gram_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (f,), (df,) = primals, tangents
    half = jnp.matmul(df, f.T, precision="highest")  # the other product of the rule is its transpose
    return _gram(f), half + half.T


def near_rows(rows: Float[Array, "rows features"], kept: Any, count: int) -> Float[Array, "rows rows"]:
    """`w_ij`, 1 if row j is one of the nearest `count` other rows of row i, else 0; rows that do not count have none.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.terms import near_rows
      >>> near_rows(jnp.array([[0.0], [1.0], [3.0]]), jnp.ones(3, bool), 1).tolist()
      [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    n = len(rows)
    other = kept[None] & kept[:, None] & ~jnp.eye(n, dtype=bool)
    close, place = jax.lax.top_k(jnp.where(other, -own_squared_distances(rows), -jnp.inf), min(count, n))
    return (jax.nn.one_hot(place, n, dtype=rows.dtype) * (close > -jnp.inf)[..., None]).sum(1)


def from_top(logits: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    """Each row minus its largest logit, held constant: with a large offset, differences of logits would lose digits.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.terms import from_top
      >>> from_top(jnp.array([[1e6, 1e6 - 1]])).tolist()
      [[0.0, -1.0]]
    """
    down = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    return jnp.maximum(down, jnp.finfo(logits.dtype).min)  # the distance of two finite logits can be infinite

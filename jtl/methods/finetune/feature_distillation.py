"""Distillation of features: trains a feature to match a teacher's, through a learned map if their widths differ."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl import ops, rng
from jtl.methods.terms import checked, weighted, with_own
from jtl.methods.views import View, Views
from jtl.metrics.accumulate import Mean, mean
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective
from jtl.reads import positions
from jtl.typing import Aux, Key, Params, Schedule, Stats


def feature_distillation(
    teacher: Model,
    variables: Variables,
    weight: float | Schedule = 1.0,
    *,
    feature: str = "pooled",
    of_teacher: str | None = None,
    project: bool = False,
    name: str = "feature_distillation",
) -> Objective:
    """The term `λ mean_i mean_e ½ (r(f_i) − t_i)²_e` over the elements e of a feature f and of the teacher's, t.

    Padding tokens and frames do not count.

    r is the identity, or with `project` a learned linear map of the last axis, stored under `<name>/kernel`. The
    teacher runs in evaluation mode and gets no gradient; its variables are kept in the statistics under `name`.

    Args:
      teacher: a network (`jtl.network`).
      variables: the teacher's variables.
      weight: λ, a number or a function of the step.
      feature: the name of the network's feature, [batch, ..., channels].
      of_teacher: the name of the teacher's feature; None for the same name.
      project: whether r is learned, for a feature of another width.
      name: name of the term, of its kernel, and of the teacher in the statistics.

    Returns:
      A term for `finetune(net, loss, terms)` or an alignment for `adapt`; all rows of all views count.

    Raises:
      ValueError: for a weight that is negative or not finite; at init, if `name` is taken; while tracing, for a missing
        feature, or shapes that differ.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> start = net.init(jax.random.key(0), jnp.zeros((4, 5)))
      >>> objective = jtl.finetune(net, terms=[jtl.finetuning.feature_distillation(net, start)])

    Romero et al., FitNets: Hints for Thin Deep Nets, 2014, arXiv 1412.6550.
    """
    checked(weight, name)
    theirs = feature if of_teacher is None else of_teacher

    def said(kept: Any, view: View) -> Array:
        return teacher_feature(teacher, kept, view, theirs, name)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del key
        sums = []
        for view in views.values():
            f, t = feature_of(view.features, feature, f"{name}, network"), said(stats[name], view)
            f = f @ params[name]["kernel"].astype(f.dtype) if project else f
            sums.append(mean(half_squares(f, t, positions(f.shape, view.features, view.x)), view.mask))
        value = Mean(sum(s.total for s in sums), sum(s.count for s in sums))
        return {name: weighted(value, weight, step)}, Aux(stats)

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        made = with_own(given, name, variables._asdict())
        if not project or name in given.params:
            return made
        view = next(iter(views.values()))
        f, t = view.features[feature], jax.eval_shape(said, made.stats[name], view)
        kernel = jax.nn.initializers.lecun_normal()(rng.stream(key, name), (f.shape[-1], t.shape[-1]))
        return made._replace(params={**given.params, name: {"kernel": kernel}})

    return Objective(run, init)


def teacher_feature(teacher: Model, kept: Any, view: View, feature: str, name: str) -> Array:
    """A feature of a frozen teacher on the rows of a view, without gradient."""
    x = ops.without_masked(view.x, view.mask)  # a NaN from the teacher would reach the gradient
    features = teacher.apply(Variables(**kept), x, train=False, key=None)[0].features
    return jax.lax.stop_gradient(feature_of(features, feature, f"{name}, teacher"))


def feature_of(features: dict[str, Any], feature: str, who: str) -> Array:
    """A feature by name.

    Raises:
      ValueError: if the backbone has no such array.
    """
    if getattr(features.get(feature), "ndim", 0) < 2:
        shapes = {n: jnp.shape(f) for n, f in features.items() if hasattr(f, "shape")}
        raise ValueError(f"{who}: feature={feature!r} must be [batch, ..., channels]; there are {shapes}")
    return features[feature]


def half_squares(
    f: Float[ArrayLike, "batch *shape"], t: Float[ArrayLike, "..."], kept: Any = None
) -> Float[Array, "batch"]:
    """`mean_e ½ (f − t)²_e` for each row, over all positions or those that `kept` [batch, positions] selects.

    Raises:
      ValueError: if the shapes differ.
    """
    f, t = jnp.asarray(f), jnp.asarray(t)
    if f.shape != t.shape:
        raise ValueError(f"the feature has shape {f.shape}, the teacher's {t.shape}: project=True where widths differ")
    wide = jnp.promote_types(f.dtype, jnp.float32)
    squares = (f.astype(wide) - t.astype(wide)) ** 2
    rows = squares if kept is None else ops.mean_of_tokens(squares, kept)
    return 0.5 * rows.mean(tuple(range(1, rows.ndim)))

"""Mean teacher: the network learns the predictions of the moving average of its own parameters."""

from typing import Any

import jax
from jaxtyping import Array, ArrayLike, Float

from jtl import ops, rng
from jtl.methods.adapt.own_norms import refuse_own
from jtl.methods.adapt.teachers import averaged
from jtl.methods.terms import checked, clean, row_logits, view_of, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.model import Model
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def mean_teacher(
    net: Model,
    weight: float | Schedule = 1.0,
    *,
    momentum: float = 0.99,
    student: str = "strong",
    teacher: str = "target",
    name: str = "teacher",
) -> Objective:
    """The alignment `λ mean_i (1/K) Σ_c (p_ic − p'_ic)²`, p' from a teacher, `θ' ← m θ' + (1 − m) θ` after each step.

    The teacher starts at the parameters of `init`, so early averages are not biased. It is kept in the statistics under
    `name`. It predicts in training mode, with its own dropout and with the batch statistics of its view.

    Args:
      net: the network that `adapt` trains.
      weight: λ, a number or a function of the step.
      momentum: m, in [0, 1).
      student: the view on which the network learns.
      teacher: the view, of the same examples in the same order, that the teacher predicts; it may be the student's.
      name: name of the term, and of the teacher in the statistics.

    Returns:
      An alignment for `adapt` with the metric `<name>_agrees`, how often both predict the same class.

    Raises:
      ValueError: for a weight or momentum out of range, or a model that is not a network; at init, if `name` is taken;
        while tracing, for a missing view, views that differ in size, or a teacher's view in `own_norms`.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.mean_teacher(net)])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}, "strong": {"x": x + 0.1}}
      >>> sorted(objective.init(jax.random.key(0), batch).stats)
      ['teacher']

    Tarvainen and Valpola, Mean teachers are better role models, 2017, arXiv 1703.01780; for adaptation French et al.,
    Self-ensembling for visual domain adaptation, 2018, arXiv 1706.05208.
    """
    checked(weight, name)
    held = averaged(net, momentum, name, dropout=True)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        refuse_own(params, (teacher,), name)
        z, kept = row_logits(views, student, name)
        view = view_of(views, teacher, name)
        own = None if key is None else rng.stream(key, name)
        said = held.predict(params, stats, ops.without_masked(view.x, view.mask), own)
        if said.shape != z.shape:
            raise ValueError(
                f"{name}: {teacher!r} has {len(said)} rows and {student!r} {len(z)}: give two views of the same ones"
            )
        wanted, others = clean(said, view.mask)
        value = mean(consistency_loss(z, wanted), kept & others)
        agrees = mean(z.argmax(1) == wanted.argmax(1), kept & others)
        return {name: weighted(value, weight, step)}, Aux(stats, {f"{name}_agrees": agrees})

    return Objective(run, held.init, held.commit)


def consistency_loss(student: Float[ArrayLike, "rows classes"], teacher: Float[ArrayLike, "rows classes"]) -> Array:
    """`(1/K) Σ_c (softmax(student)_c − softmax(teacher)_c)²` of each row of logits, the teacher's held constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.mean_teacher import consistency_loss
      >>> consistency_loss(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])).tolist()
      [1.0]
    """
    (p, _), (q, _) = clean(student), clean(teacher)
    return ((jax.nn.softmax(p) - jax.lax.stop_gradient(jax.nn.softmax(q))) ** 2).mean(1)

"""Self-training: confident predictions serve as the target's labels, for the same view or for a strong view."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl import losses
from jtl.methods.terms import checked, paired_logits, weighted
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def pseudo_labels(
    weight: float | Schedule = 1.0, *, threshold: float = 0.95, view: str = "target", name: str = "pseudo"
) -> Objective:
    """The alignment `λ mean_i 1[max_c p_ic ≥ τ] · −log p_iŷ`, `ŷ_i = argmax_c p_ic` held constant, on one view.

    The mean is over all rows, confident or not.

    Args:
      weight: λ, a number or a function of the step.
      threshold: τ, in [0, 1].
      view: the unlabelled view.
      name: name of the term.

    Returns:
      An alignment for `adapt` with the metric `<name>_confident`, the fraction of rows that are confident.

    Raises:
      ValueError: for a weight or threshold out of range; while tracing, for a missing view.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.pseudo_labels(0.1)])

    Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks, 2013.
    """
    return fixmatch(weight, threshold=threshold, weak=view, strong=view, name=name)


def fixmatch(
    weight: float | Schedule = 1.0,
    *,
    threshold: float = 0.95,
    weak: str = "target",
    strong: str = "strong",
    name: str = "fixmatch",
) -> Objective:
    """The alignment `λ mean_i 1[max_c p_ic ≥ τ] · −log q_iŷ`: the strong view q learns the weak view's `ŷ_i`.

    p is held constant. The mean is over all rows, confident or not, so the term grows as confidence does.

    Args:
      weight: λ, a number or a function of the step.
      threshold: τ, in [0, 1].
      weak: the view whose predictions become labels.
      strong: the strongly augmented view, of the same examples in the same order, that is trained on these labels.
      name: name of the term.

    Returns:
      An alignment for `adapt` with the metric `<name>_confident`, the fraction of rows that are confident.

    Raises:
      ValueError: for a weight or threshold out of range; while tracing, for a missing view, or views that differ in
        size.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.fixmatch()])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x}, "strong": {"x": x + 0.1}}
      >>> variables = objective.init(jax.random.key(0), batch)
      >>> loss, aux = objective(variables.params, variables.stats, batch, jax.random.key(1), 0)

    Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, 2020, arXiv 2001.07685.
    """
    checked(weight, name)
    _check(threshold)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        p, q, kept = paired_logits(views, weak, strong, name)
        value = mean(fixmatch_loss(p, q, threshold=threshold), kept)
        confident = mean(jax.nn.softmax(p).max(1) >= threshold, kept)
        return {name: weighted(value, weight, step)}, Aux(stats, {f"{name}_confident": confident})

    return Objective(run)


def fixmatch_loss(
    weak: Float[ArrayLike, "rows classes"], strong: Float[ArrayLike, "rows classes"], *, threshold: float = 0.95
) -> Array:
    """`1[max_c softmax(weak)_c ≥ τ] · −log softmax(strong)_ŷ` for each row of logits, with `weak` held constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.pseudo_labels import fixmatch_loss
      >>> values = fixmatch_loss(jnp.array([[9.0, 0.0], [1.0, 0.0]]), jnp.zeros((2, 2)))
      >>> [round(float(v), 4) for v in values]
      [0.6931, 0.0]
    """
    _check(threshold)
    z = jax.lax.stop_gradient(jnp.asarray(weak))
    sure = jax.nn.softmax(z.astype(jnp.promote_types(z.dtype, jnp.float32))).max(1) >= threshold
    return jnp.where(sure, losses.cross_entropy(jnp.asarray(strong), z.argmax(1)), 0.0)


def _check(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: it lies in [0, 1]")

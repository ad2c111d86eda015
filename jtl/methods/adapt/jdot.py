"""DeepJDOT: optimal transport of features and labels from the source to the target."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import (
    checked,
    clean,
    features_of,
    labels_of,
    logits_of,
    mean_row,
    squared_distances,
    weighted,
)
from jtl.methods.views import Views
from jtl.metrics.accumulate import mean
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def deep_jdot(
    weight: float | Schedule = 1.0,
    *,
    feature_cost: float,
    label_cost: float,
    regularisation: float = 0.05,
    iterations: int = 100,
    feature: str = "pooled",
    name: str = "deep_jdot",
) -> Objective:
    """The alignment `λ Σ_ij γ_ij C_ij`, `C_ij = α ‖f_i − f_j‖² + β ℓ(y_i, z_j)`, γ the optimal plan, held constant.

    ℓ is the cross-entropy of target row j with the label of source row i. The plan is Sinkhorn's, regularised by its
    entropy, whereas the paper computes the exact plan on batches of 500 rows.

    Args:
      weight: λ, a number or a function of the step.
      feature_cost: α; the paper uses 0.001 on digits. It depends on the width and scale of the features.
      label_cost: β; the paper uses 0.0001 on digits.
      regularisation: ε divided by the mean of C. A smaller value is closer to the exact plan and needs more iterations.
      iterations: number of Sinkhorn iterations.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`, for a source with integer labels; rows with negative labels or of weight 0 do not count.
      Its metric `<name>_plan_error` is `Σ_i |Σ_j γ_ij − 1/n|`, 0 for a plan that has converged, at most 2.

    Raises:
      ValueError: for numbers out of range; while tracing, for a missing view or feature, or labels that are not
        integers.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.deep_jdot(feature_cost=0.001, label_cost=0.0001)])

    Damodaran et al., DeepJDOT: Deep Joint Distribution Optimal Transport for Unsupervised Domain Adaptation, 2018,
    arXiv 1803.10081.
    """
    checked(weight, name)
    if not (0 <= feature_cost < float("inf") and 0 <= label_cost < float("inf") and feature_cost + label_cost > 0):
        raise ValueError(
            f"feature_cost={feature_cost}, label_cost={label_cost}: neither is negative, and one is positive"
        )
    _check(regularisation, iterations)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        y, (z, _) = labels_of(views, "source", name), logits_of(views, "target", name)
        ms &= y >= 0
        # A label beyond the classes gives NaN, not the cost of another class.
        cross_entropy = -jnp.take(jax.nn.log_softmax(z).T, jnp.maximum(y, 0), axis=0, mode="fill", fill_value=jnp.nan)
        centre = jax.lax.stop_gradient(mean_row(fs, ms))[None]  # affects only the rounding of distances
        cost = feature_cost * squared_distances(fs - centre, ft - centre) + label_cost * cross_entropy
        plan, error = sinkhorn(cost, ms, mt, regularisation=regularisation, iterations=iterations)
        value = jnp.where(ms[:, None] & mt[None], plan * cost, 0.0).sum()
        return {name: weighted(value, weight, step)}, Aux(stats, {f"{name}_plan_error": mean(error[None])})

    return Objective(run)


def sinkhorn(
    cost: Float[ArrayLike, "rows others"],
    source_mask: Any = None,
    target_mask: Any = None,
    *,
    regularisation: float = 0.05,
    iterations: int = 100,
) -> tuple[Array, Array]:
    """The plan of `min_γ Σ γ_ij C_ij + ε Σ γ_ij log γ_ij` between uniform weights on the rows that the masks keep.

    It is computed in log space, so a small ε does not underflow. The plan has no gradient: by the envelope theorem, the
    gradient of `Σ γ_ij C_ij` at a fixed plan is that of the regularised minimum at a fixed ε. The plan is 0 if a domain
    has no rows.

    Args:
      cost: C.
      source_mask: rows of C that count.
      target_mask: columns of C that count.
      regularisation: ε divided by the mean of |C|.
      iterations: each iteration scales the rows, then the columns, so the columns' sums are exact at the end.

    Returns:
      γ, and `Σ_i |Σ_j γ_ij − 1/n|`, the remaining error of the rows' sums.

    Raises:
      ValueError: for a regularisation or iterations that are not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.jdot import sinkhorn
      >>> plan, error = sinkhorn(jnp.array([[0.0, 1.0], [1.0, 0.0]]), regularisation=0.01)
      >>> plan.round(3).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, 2013, arXiv 1306.0895.
    """
    _check(regularisation, iterations)
    c, ms = clean(jax.lax.stop_gradient(jnp.asarray(cost)), source_mask)
    columns, mt = clean(c.T, target_mask)
    c, both = columns.T, ms[:, None] & mt[None]
    scale = jnp.where(both, jnp.abs(c), 0.0).sum() / jnp.maximum(both.sum(), 1)
    logk = jnp.where(both, -c / (regularisation * jnp.where(scale > 0, scale, 1.0)), -1e30)
    row, column = -jnp.log(jnp.maximum(ms.sum(), 1.0)), -jnp.log(jnp.maximum(mt.sum(), 1.0))

    def scaled(_: Any, uv: tuple[Array, Array]) -> tuple[Array, Array]:
        u = jnp.where(ms, row - jax.nn.logsumexp(logk + uv[1][None], axis=1), 0.0)
        return u, jnp.where(mt, column - jax.nn.logsumexp(logk + u[:, None], axis=0), 0.0)

    start = jnp.zeros(c.shape[0], c.dtype), jnp.zeros(c.shape[1], c.dtype)
    u, v = jax.lax.fori_loop(0, iterations, scaled, start)
    plan = jnp.where(both, jnp.exp(logk + u[:, None] + v[None]), 0.0)
    error = jnp.where(ms & mt.any(), jnp.abs(plan.sum(1) - jnp.exp(row)), 0.0).sum()
    return plan, error


def _check(regularisation: float, iterations: int) -> None:
    if not 0 < regularisation < float("inf") or iterations < 1:
        raise ValueError(f"regularisation={regularisation}, iterations={iterations}: give positive numbers")

"""Deep CORAL: makes the feature covariances of two domains equal."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import clean, features_of, mean_row, on_views
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule


def coral(weight: float | Schedule = 1.0, *, feature: str = "pooled", name: str = "coral") -> Objective:
    """The alignment `λ ‖C_s − C_t‖²_F / (4 d²)`, C the covariances of a feature of width d in `source` and `target`.

    This is the paper's formula. Some libraries compute other multiples of it, or add the difference of the means, so
    their weights do not carry over. With microbatches the term is the mean over the parts; with several devices it is
    that of the whole batch.

    Args:
      weight: λ, a number or a function of the step.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight; while tracing, for a missing view or feature.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.coral(1.0)])

    Sun and Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, 2016, arXiv 1607.01719.
    """

    def value(views: Views) -> Array:
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        return coral_loss(fs, ft, ms, mt)

    return on_views(value, weight, name)


def coral_loss(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    source_mask: Any = None,
    target_mask: Any = None,
) -> Array:
    """`‖C_s − C_t‖²_F / (4 d²)`, `C = Σ_i (f_i − f̄)(f_i − f̄)ᵀ / (n − 1)`; 0 if a domain has fewer than two rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.coral import coral_loss
      >>> float(coral_loss(jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [0.0]])))  # (2 - 0)² / 4
      1.0
    """
    (fs, ms), (ft, mt) = clean(source, source_mask), clean(target, target_mask)
    difference = _covariance(fs, ms) - _covariance(ft, mt)
    value = (difference**2).sum() / (4 * fs.shape[1] ** 2)
    return jnp.where((ms.sum() > 1) & (mt.sum() > 1), value, 0.0)


def _covariance(f: Array, kept: Array) -> Array:
    centred = jnp.where(kept[:, None], f - mean_row(f, kept)[None], 0.0)
    return jnp.matmul(centred.T, centred, precision="highest") / jnp.maximum(kept.sum() - 1, 1)

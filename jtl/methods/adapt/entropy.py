"""Entropy of the predictions on the target: minimised for each row, and maximised for their mean."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import clean, logits_of, on_views, row_logits
from jtl.methods.views import Views
from jtl.metrics import certainty
from jtl.metrics.accumulate import Mean, mean
from jtl.objective import Objective
from jtl.typing import Schedule


def entropy(weight: float | Schedule = 1.0, *, view: str = "target", name: str = "entropy") -> Objective:
    """The alignment `λ mean_i H(p_i)`, `H(p) = −Σ_c p_c log p_c`, of the predictions of the unlabelled domain.

    Used alone, it is also minimal if all rows are assigned one class, unlike `information_maximisation`.

    Args:
      weight: λ, a number or a function of the step.
      view: the view whose predictions are used.
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight; while tracing, for a missing view.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.entropy(0.1)])

    Grandvalet and Bengio, Semi-supervised Learning by Entropy Minimization, 2004.
    """

    def value(views: Views) -> Mean:
        z, kept = row_logits(views, view, name)
        return mean(certainty.entropy(z), kept)

    return on_views(value, weight, name)


def information_maximisation(
    weight: float | Schedule = 1.0, *, view: str = "target", name: str = "information"
) -> Objective:
    """The alignment `λ (mean_i H(p_i) − H(mean_i p_i))`: predictions certain for each row, diverse over the batch.

    Args:
      weight: λ, a number or a function of the step.
      view: the view whose predictions are used.
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight; while tracing, for a missing view.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.information_maximisation(0.1)])

    Krause et al., Discriminative Clustering by Regularized Information Maximization, 2010; Shi and Sha,
    Information-Theoretical Learning of Discriminative Clusters for Unsupervised Domain Adaptation, 2012,
    arXiv 1206.6438.
    """

    def value(views: Views) -> Array:
        return information_loss(*logits_of(views, view, name))

    return on_views(value, weight, name)


def information_loss(logits: Float[ArrayLike, "rows classes"], mask: Any = None) -> Array:
    """`mean_i H(p_i) − H(mean_i p_i)` in nats, the negative mutual information of row and class; 0 without rows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.entropy import information_loss
      >>> round(float(information_loss(jnp.array([[99.0, 0.0], [0.0, 99.0]]))), 4)
      -0.6931
    """
    z, kept = clean(logits, mask)
    return jnp.asarray(mean(certainty.entropy(z), kept).value - certainty.diversity(z, kept))

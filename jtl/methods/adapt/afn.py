"""Adaptive feature norm: makes the norms of features grow step by step, in both domains."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.methods.terms import clean, on_views, row_features
from jtl.methods.views import Views
from jtl.metrics.accumulate import Mean, mean
from jtl.objective import Objective
from jtl.typing import Schedule


def afn(
    weight: float | Schedule = 0.05, *, growth: float = 1.0, feature: str = "pooled", name: str = "afn"
) -> Objective:
    """The alignment `λ mean_i (‖f_i‖ − sg ‖f_i‖ − Δ)²` over the rows of `source` and `target` together.

    sg stops the gradient, so the value is always `λ Δ²`, and the gradient of each row is `−2 λ Δ f_i / ‖f_i‖`: watch
    the accuracy and not this term. It is the paper's stepwise variant; the network determines the dropout and the layer
    that is read.

    Args:
      weight: λ, a number or a function of the step; the paper uses 0.05.
      growth: Δ > 0, the amount by which norms should grow.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`.

    Raises:
      ValueError: for an invalid weight or growth; while tracing, for a missing view or feature.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.afn()])

    Xu et al., Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised Domain Adaptation,
    2019, arXiv 1811.07456.
    """
    if not 0 < growth < float("inf"):
        raise ValueError(f"growth={growth}: give a positive number")

    def value(views: Views) -> Mean:
        (fs, ms), (ft, mt) = (row_features(views, of, feature, name) for of in ("source", "target"))
        f, kept = jnp.concatenate([fs, ft]), jnp.concatenate([ms, mt])
        return mean(afn_loss(f, growth=growth), kept)

    return on_views(value, weight, name)


def afn_loss(features: Float[ArrayLike, "rows width"], mask: Any = None, *, growth: float = 1.0) -> Array:
    """`(‖f_i‖ − sg ‖f_i‖ − Δ)²` of each row; a row of zeros has the gradient 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.methods.adapt.afn import afn_loss
      >>> jax.grad(lambda f: afn_loss(f).sum())(jnp.array([[4.0]])).tolist()
      [[-2.0]]
    """
    f, _ = clean(features, mask)
    largest = jax.lax.stop_gradient(jnp.abs(f).max(1, keepdims=True))  # so that no square underflows or overflows
    scale = jnp.where(largest > 0, largest, 1.0)
    squares = ((f / scale) ** 2).sum(1)
    norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0) * scale[:, 0]
    return (norms - jax.lax.stop_gradient(norms) - growth) ** 2

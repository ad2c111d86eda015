"""LMMD: makes the mean embeddings of each class equal in two domains."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from jtl.methods.adapt.mmd import bandwidth, check_scales, kernel
from jtl.methods.terms import clean, features_of, labels_of, logits_of, mean_row, on_views, own_squared_distances
from jtl.methods.views import Views, classes_of_rows
from jtl.objective import Objective
from jtl.typing import Schedule


def lmmd(
    weight: float | Schedule = 1.0,
    *,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    feature: str = "pooled",
    name: str = "lmmd",
) -> Objective:
    """The alignment `λ · lmmd_loss` of DSAN: an MMD for each class, with predictions as the target's labels.

    Early predictions are wrong, so use a weight that grows from 0, such as `weight_schedule(total_steps)`.

    Args:
      weight: λ, a number or a function of the step.
      scales: α of the kernel, as in `mmd`.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`, for a source with integer labels; rows with negative labels or of weight 0 do not count.

    Raises:
      ValueError: for an invalid weight or scales; while tracing, for a missing view or feature, or labels that are not
        integers.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.lmmd(jtl.weight_schedule(1000))])

    Zhu et al., Deep Subdomain Adaptation Network for Image Classification, 2021, arXiv 2106.09388.
    """
    check_scales(scales)

    def value(views: Views) -> Array:
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        y, (logits, _) = labels_of(views, "source", name), logits_of(views, "target", name)
        return lmmd_loss(fs, ft, y, logits, ms, mt, scales=scales)

    return on_views(value, weight, name)


def lmmd_loss(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    labels: Integer[ArrayLike, " rows"],
    logits: Float[ArrayLike, "others classes"],
    source_mask: Any = None,
    target_mask: Any = None,
    *,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
) -> Array:
    """`mean_c Σ_ij a_ic a_jc k(s_i, s_j) + Σ_ij b_ic b_jc k(t_i, t_j) − 2 Σ_ij a_ic b_jc k(s_i, t_j)`.

    a_ic is 1 over the number of source rows of class c if row i is of class c, else 0. b_jc is target row j's
    probability of c divided by its sum over rows, held constant. Pairs of a row with itself count, so the loss is never
    negative. As in the authors' code, the mean is over the classes that occur both as a source label and as a target
    prediction; the loss is 0 if there is no such class, and NaN for a label beyond the classes.

    Args:
      source: features.
      target: features.
      labels: labels of the source; rows with negative ones do not count.
      logits: logits of the target.
      source_mask: rows of the source that count.
      target_mask: rows of the target that count.
      scales: α of the kernel, as in `mmd`.

    Raises:
      ValueError: for scales that are not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.lmmd import lmmd_loss
      >>> f = jnp.array([[0.0], [1.0]])
      >>> round(float(lmmd_loss(f, f, jnp.array([0, 1]), jnp.array([[99.0, 0.0], [0.0, 99.0]]))), 4)
      0.0
    """
    check_scales(scales)
    (fs, ms), (ft, mt) = clean(source, source_mask), clean(target, target_mask)
    z, _ = clean(logits, mt)
    z, y = jax.lax.stop_gradient(z), jnp.where(ms, classes_of_rows(labels, "lmmd"), -1)
    f, kept, classes = jnp.concatenate([fs, ft]), jnp.concatenate([ms & (y >= 0), mt]), z.shape[1]
    f = jnp.where(kept[:, None], f - jax.lax.stop_gradient(mean_row(f, kept))[None], 0.0)
    k = kernel(own_squared_distances(f), bandwidth(f, kept), scales)
    of_class = jax.nn.one_hot(y, classes, dtype=f.dtype)
    a = of_class / jnp.maximum(of_class.sum(0), 1)[None]
    # A probability divided by its sum over rows is a softmax over rows: exact even if a class underflows in all rows.
    b = jax.nn.softmax(jnp.where(mt[:, None], jax.nn.log_softmax(z), jnp.finfo(z.dtype).min), axis=0)
    predicted = (jax.nn.one_hot(z.argmax(1), classes, dtype=bool) & mt[:, None]).any(0)
    there = (of_class > 0).any(0) & predicted
    signed = jnp.concatenate([a, -b])
    by_class = (signed * jnp.matmul(k, signed, precision="highest")).sum(0)
    value = jnp.where(there, by_class, 0.0).sum() / jnp.maximum(there.sum(), 1)
    return jnp.where((y >= classes).any(), jnp.nan, value)

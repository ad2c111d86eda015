"""Representation self-challenging: the features that a label's logit depends on most are muted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jtl import checked, losses, ops, rng
from jtl._tracing import scope
from jtl.methods.adapt.joined_rows import joined_rows, names_of_some, told_of
from jtl.methods.adapt.views import ignoring, look
from jtl.methods.finetune.finetune import ACCURACY
from jtl.methods.views import needs
from jtl.metrics.accumulate import Metric, mean
from jtl.model import Model, Variables
from jtl.networks import only_head, part
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats


def rsc(
    net: Model,
    domains: Sequence[str],
    loss: Callable = losses.cross_entropy,
    *,
    feature_share: float = 1 / 3,
    batch_share: float = 1 / 3,
    ignore: int | None = None,
    metrics: Mapping[str, Callable | Metric] = ACCURACY,
    name: str = "rsc",
) -> Objective:
    """The objective `mean_i ℓ(h(f_i ⊙ m_i), y_i)` over the rows of labelled domains, h the head and f what it reads.

    `g_i = ∂h(f_i)_{y_i} / ∂f_i` is the gradient of the label's logit. The entries of f with `g_ij ≥ q_i` are muted
    (`m_ij = 0`), where `q_i` is the quantile `1 − feature_share` of the entries of `g_i`. Only some rows are muted:
    those in which this lowers the label's probability by at least as much as the quantile `1 − batch_share` over all
    rows of the batch. In the other rows m = 1. The masks are held constant.

    This is DomainBed's form, which mutes entries of one vector for each row. The authors' code mutes channels or
    positions of the last map, by a coin, and the share of rows that it mutes grows over the run. Quantiles interpolate
    linearly, so the largest entry is always muted. In evaluation nothing is: the network is the plain one.

    The domains are joined, and one is enough. A row counts or not in the quantiles, whatever its weight is. With
    microbatches the quantile over rows is that of each part. The head runs three times, the backbone once.

    Args:
      net: `jtl.network(backbone=..., head=...)`, with one head that reads a vector.
      domains: the views' names.
      loss: one value per row.
      feature_share: the share of a row's entries that are muted, in [0, 1].
      batch_share: the share of the rows that are muted, in [0, 1].
      ignore: as in `finetune`.
      metrics: metrics of each domain, as in `finetune`, on outputs of which nothing is muted; they are reported as
        `<domain>/<metric>`.
      name: name of the term.

    Returns:
      An objective on batches `{domain: {"x", "y", "mask"}, ...}` with one term.

    Raises:
      ValueError: for no domains, shares out of range, or a network with other heads than one; while tracing, for a
        domain that is missing or has no labels of classes, or a head that reads no vector or gives no logits.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.alignments.rsc(net, ("photo", "sketch"))

    Huang et al., Self-Challenging Improves Cross-Domain Generalization, 2020, arXiv 2007.02454.
    """
    checked.within("[0, 1]", feature_share=feature_share, batch_share=batch_share)
    names, (of_head, head) = names_of_some(domains, name), only_head(net, name)

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        views, new = look(net, params, stats, batch, key)
        views = ignoring(views, ignore)
        rows = joined_rows(head, views, names, name)

        def logits(params: Params, f: Array) -> Array:
            with scope.within(of_head):
                own = part(Variables(params, stats), of_head)
                return head.apply(own, f, train=True, key=rng.stream(key, name))[0]

        constant = jax.lax.stop_gradient((params, rows.f))
        muted = challenged(
            lambda f: logits(constant[0], f), constant[1], rows.y, rows.weights > 0, feature_share=feature_share,
            batch_share=batch_share,
        )  # fmt: skip
        values = loss(logits(params, jnp.where(muted, 0.0, rows.f)), rows.y)
        outputs = {d: view.output for d, view in views.items()}
        return {name: mean(values, rows.weights)}, Aux(new, told_of(views, names, metrics), outputs)

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        needs(batch, names, name)
        return complete(net.init, key, batch[names[0]]["x"], given)

    return Objective(run, init, classes=net.classes)


def challenged(
    logits: Callable[[Array], Array],
    f: Float[Array, "batch width"],
    y: Int[Array, "batch"],
    kept: Bool[Array, "batch"],
    *,
    feature_share: float,
    batch_share: float,
) -> Bool[Array, "batch width"]:
    """Which entries of which rows `rsc` mutes.

    Args:
      logits: the head, from features to [batch, classes].
      f: the features.
      y: the labels.
      kept: which rows count.
      feature_share: the share of entries.
      batch_share: the share of rows, over all devices.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.rsc import challenged
      >>> def logits(f):
      ...     return jnp.stack([f[:, 0] + 2 * f[:, 1], 3 * f[:, 2]], 1)
      >>> f, y, kept = jnp.array([[1.0, 1.0, 1.0], [1.0, 3.0, 1.0]]), jnp.array([0, 0]), jnp.ones(2, bool)
      >>> challenged(logits, f, y, kept, feature_share=1 / 3, batch_share=1 / 2).tolist()
      [[False, False, False], [False, True, False]]
    """
    z, pullback = jax.vjp(logits, f)
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(f"rsc: the head gives {z.shape}; it must give logits [batch, classes] of two classes or more")
    (g,) = pullback(jax.nn.one_hot(y, z.shape[1], dtype=z.dtype))
    g = g.astype(jnp.promote_types(g.dtype, jnp.float32))
    every = jnp.ones(g.shape[1], bool)
    top = g >= jax.vmap(lambda row: quantile(row, every, 1 - feature_share))(g)[:, None]

    def of_label(z: Array) -> Array:
        p = jax.nn.softmax(z.astype(g.dtype))
        return jnp.take_along_axis(p, y[:, None], 1, mode="clip")[:, 0]

    lost = of_label(z) - of_label(logits(jnp.where(top, 0.0, f)))
    least = quantile(ops.gather(lost), ops.gather(kept), 1 - batch_share)
    return top & (lost >= least)[:, None]


def quantile(values: Float[Array, "n"], kept: Bool[Array, "n"], share: float) -> Float[Array, ""]:
    """The quantile of the values that are kept, interpolated linearly as by NumPy; infinity if there are none.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.rsc import quantile
      >>> float(quantile(jnp.array([4.0, 9.0, 1.0, 2.0]), jnp.array([True, False, True, True]), 0.75))
      3.0
    """
    n = kept.sum()
    ordered = jnp.sort(jnp.where(kept, values, jnp.inf))
    place = share * jnp.maximum(n - 1, 0).astype(values.dtype)
    near = jnp.round(place)  # rounding must not put a value that is the quantile itself beside it
    place = jnp.where(jnp.abs(place - near) < 1e-4, near, place)
    low, high = (ordered[at(place).astype(int)] for at in (jnp.floor, jnp.ceil))
    return jnp.where(n > 0, low + (place - jnp.floor(place)) * jnp.where(n > 0, high - low, 0.0), jnp.inf)

"""CAN: makes each class of two domains close to itself and far from the others, by clusters of the target."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from jtl import checked, ops
from jtl.methods.adapt.mmd import check_scales, kernel
from jtl.methods.adapt.source_free.rows import refuse_views, rows_of
from jtl.methods.terms import checked as check_weight
from jtl.methods.terms import (
    clean,
    features_of,
    kept_or_new,
    labels_of,
    logits_of,
    mean_row,
    own_squared_distances,
    view_of,
    weighted,
)
from jtl.methods.views import Views
from jtl.model import Variables
from jtl.objective import NONE, Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""The authors' five kernels, α of `exp(−d² / (2 α m))`."""


def can(
    rows: int,
    weight: float | Schedule = 0.3,
    *,
    scales: Sequence[float] = SCALES,
    predictions: bool = True,
    feature: str = "pooled",
    name: str = "can",
) -> Objective:
    """The alignment `λ · contrastive_discrepancy` of a feature, plus that of the predictions `softmax(z)`.

    The target's labels are those of clusters. They are kept in the statistics, so a resumed run has them.
    `cluster_labels` computes them, by `fit(..., refresh=Refresh(cluster_labels(net, source, target), every=...))`;
    without a refresh they are -1, and the term is 0. The authors refresh once an epoch.

    The authors draw each batch by class: some classes, and for each of them 3 to 10 rows of either domain. Here a batch
    is what the data gives, and a class counts if the batch has rows of it from both domains, so give batches of several
    times as many rows as classes. The metric `<name>_classes` tells how many classes count. The authors' networks have
    own normalisation layers for each domain: `adapt(..., own_norms=("source",))`.

    Args:
      rows: the number of the target's examples.
      weight: λ, a number or a function of the step; 0.3 in the authors' code.
      scales: α of the kernel.
      predictions: whether the predictions are aligned too.
      feature: the name of the backbone's feature, [batch, width].
      name: of the term, and of the labels in the statistics.

    Returns:
      An alignment for `adapt`, for a source with integer labels. The target's y is the ROW of each example in the
      target, `arange(rows)`, not a label: `target = jtl.data.arrays(x, np.arange(len(x)), ...)`, and
      `jtl.data.pair(source, target, target_labels=True)` keeps it.

    Raises:
      ValueError: for rows below 1, an invalid weight or scales; at init, where `name` is taken; while tracing, for a
        missing view or feature, or y that are no integers.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.can(rows=100)])
      >>> x = jnp.zeros((4, 5))
      >>> batch = {"source": {"x": x, "y": jnp.zeros(4, int)}, "target": {"x": x, "y": jnp.array([7, 0, 99, 31])}}
      >>> objective.init(jax.random.key(0), batch).stats["can"].shape
      (100,)

    Kang et al., Contrastive Adaptation Network for Unsupervised Domain Adaptation, 2019, arXiv 1901.00976.
    """
    checked.whole(1, rows=rows)
    check_weight(weight, name)
    check_scales(scales)

    def run(params: Params, stats: Stats, views: Views, key: Key | None, step: Any) -> tuple[Any, Aux]:
        del params, key
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        (zs, _), (zt, _) = (logits_of(views, of, name) for of in ("source", "target"))
        y, places = labels_of(views, "source", name), ops.gather(rows_of(view_of(views, "target", name).y, name))
        y = jnp.where(ms, y, -1)
        known = mt & (places >= 0) & (places < rows)
        found = jnp.where(known, stats[name][jnp.where(known, places, 0)], -1)
        classes = zs.shape[1]
        value = contrastive_discrepancy(fs, ft, y, found, classes, scales=scales)
        if predictions:
            ps, pt = jax.nn.softmax(zs), jax.nn.softmax(zt)
            value += contrastive_discrepancy(ps, pt, y, found, classes, scales=scales)
        own, other = (jax.nn.one_hot(labels, classes, dtype=bool).any(0) for labels in (y, found))
        return {name: weighted(value, weight, step)}, Aux(stats, {f"{name}_classes": (own & other).sum() * 1.0})

    def init(key: Key, views: Views, given: Variables = NONE) -> Variables:
        del key
        refuse_views(view_of(views, "target", name), rows, name)
        return kept_or_new(given, name, jnp.full(rows, -1, jnp.int32))

    return Objective(run, init)


def contrastive_discrepancy(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    labels: Integer[ArrayLike, " rows"],
    target_labels: Integer[ArrayLike, " others"],
    classes: int,
    *,
    scales: Sequence[float] = SCALES,
) -> Array:
    """`1/M Σ_c D_cc − 1/(M (M−1)) Σ_{c≠c'} D_cc'`, D_cc' the squared MMD between source class c and target class c'.

    `D_cc' = mean k(s_i, s_j) + mean k(t_i, t_j) − 2 mean k(s_i, t_j)` over the source's rows of class c and the
    target's of class c', with pairs of a row with itself. The kernel is `k = Σ_α exp(−d² / (2 α m_cc'))`. As in the
    authors' code, m_cc' is the mean of d² over all pairs of two rows of the two classes, held constant. M is the number
    of classes of which both domains have rows; the others do not count. It is 0 if M is 0, and has no second sum if M
    is 1. The work grows with `classes · rows²`.

    Args:
      source: features.
      target: features.
      labels: labels of the source; rows with negative ones do not count.
      target_labels: labels of the target, likewise.
      classes: the number of classes.
      scales: α.

    Raises:
      ValueError: for scales that are not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.can import contrastive_discrepancy
      >>> f, y = jnp.array([[0.0], [0.1], [5.0], [5.1]]), jnp.array([0, 0, 1, 1])
      >>> right, wrong = (float(contrastive_discrepancy(f, f, y, other, 2)) for other in (y, 1 - y))
      >>> right < 0 < wrong
      True
    """
    check_scales(scales)
    y, t = jnp.asarray(labels), jnp.asarray(target_labels)
    (fs, ms), (ft, mt) = clean(source, y >= 0), clean(target, t >= 0)
    f, kept, n = jnp.concatenate([fs, ft]), jnp.concatenate([ms, mt]), len(fs)
    f = jnp.where(kept[:, None], f - jax.lax.stop_gradient(mean_row(f, kept))[None], 0.0)
    d = own_squared_distances(f)
    ss, tt, st = d[:n, :n], d[n:, n:], d[:n, n:]
    a, b = (jax.nn.one_hot(labels, classes, dtype=f.dtype) for labels in (y, t))
    here, there = a.sum(0), b.sum(0)
    m = jax.lax.stop_gradient(_widths(_within(ss, a), _within(tt, b), _matmul(a.T, _matmul(st, b)), here, there))
    a, b = a / jnp.maximum(here, 1)[None], b / jnp.maximum(there, 1)[None]

    @jax.checkpoint  # the kernels of one class after the other, also backwards: together they are the largest array
    def own(widths: tuple[Array, Array]) -> tuple[Array, Array]:
        of_source, of_target = widths
        first = _within(kernel(ss, of_source[y][:, None], scales), a)
        return first, _within(kernel(tt, of_target[t][:, None], scales), b)

    # Rows of the first are c', and of the second c.
    first, second = jax.lax.map(own, (m.T, m))
    between = _matmul(a.T, _matmul(kernel(st, m[y[:, None], t[None]], scales), b))
    by_pair = first.T + second - 2 * between
    both = (here > 0) & (there > 0)
    pairs = both[:, None] & both[None]
    same, count = jnp.eye(classes, dtype=bool), both.sum()
    intra = jnp.where(pairs & same, by_pair, 0.0).sum() / jnp.maximum(count, 1)
    inter = jnp.where(pairs & ~same, by_pair, 0.0).sum() / jnp.maximum(count * (count - 1), 1)
    return intra - inter


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _within(k: Array, of_class: Array) -> Array:
    """`Σ_ij a_ic a_jc k_ij`, [classes]."""
    return (of_class * _matmul(k, of_class)).sum(0)


def _widths(own: Array, other: Array, cross: Array, here: Array, there: Array) -> Array:
    """The mean of d² over pairs of two rows of source class c and target class c', [classes, classes]; 1 if it is 0."""
    count = here[:, None] + there[None]
    m = (own[:, None] + other[None] + 2 * cross) / jnp.maximum(count * (count - 1), 1)
    return jnp.where(m > 0, m, 1.0)

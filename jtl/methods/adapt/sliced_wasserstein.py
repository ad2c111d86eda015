"""The sliced Wasserstein distance: on random lines the features of two domains are transported to each other."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl import ops, rng
from jtl.checked import whole
from jtl.methods.terms import checked, clean, features_of, weighted
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Aux, Key, Params, Schedule, Stats


def sliced_wasserstein(
    weight: float | Schedule = 1.0,
    *,
    projections: int = 128,
    feature: str = "pooled",
    name: str = "sliced_wasserstein",
) -> Objective:
    """The alignment `λ · sliced_wasserstein_loss` between a feature of `source` and the same feature of `target`.

    Every step draws new random projection directions. Lee et al. use this distance in MCD (`mcd`): there it compares
    the outputs of two classifiers on the same target rows, the classifiers maximise it and the backbone minimises it.
    Here it compares the features of two domains, and nothing alternates. If the means of two domains differ by c, their
    distance is at least about `‖c‖² / d`, where d is the width.

    Args:
      weight: λ, a number or a function of the step.
      projections: number of directions; 128 in Lee et al.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term, and of its stream of random draws.

    Returns:
      An alignment for `adapt`. With microbatches it is the mean over the parts; over several devices it is computed on
      the whole batch.

    Raises:
      ValueError: for a bad weight or number of projections; while tracing, for a view or feature that is missing.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> objective = jtl.adapt(net, alignments=[jtl.alignments.sliced_wasserstein(0.1)])

    Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures, 2015; Lee et al., Sliced Wasserstein
    Discrepancy for Unsupervised Domain Adaptation, 2019, arXiv 1903.04064.
    """
    checked(weight, name)
    whole(1, projections=projections)

    def run(params: Params, stats: Stats, views: Views, key: Key, step: Any) -> tuple[dict, Aux]:
        del params
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        drawn = jax.random.normal(rng.stream(key, name), (projections, fs.shape[1]), fs.dtype)
        drawn = ops.gather(drawn[None])[0]  # pmapped devices draw apart, and all take the first one's
        lines = drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)
        return {name: weighted(sliced_wasserstein_loss(fs, ft, lines, ms, mt), weight, step)}, Aux(stats)

    return Objective(run)


def sliced_wasserstein_loss(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    lines: Float[ArrayLike, "lines width"],
    source_mask: Any = None,
    target_mask: Any = None,
) -> Array:
    """`mean_θ ∫₀¹ (F_s⁻¹(u) − F_t⁻¹(u))² du`, F the distribution function of `θ · f` over the rows of a domain.

    It is the square of the distance of order 2, so the gradient is 0 for equal domains. The integral is exact even if
    the domains differ in their number of rows. The loss is 0 if a domain has no rows.

    Args:
      source: features.
      target: features.
      lines: directions θ, unit vectors.
      source_mask: the rows of the source that count.
      target_mask: the rows of the target that count.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.sliced_wasserstein import sliced_wasserstein_loss
      >>> float(sliced_wasserstein_loss(jnp.array([[1.0], [5.0]]), jnp.array([[3.0]]), jnp.array([[1.0]])))
      4.0
    """
    (fs, ms), (ft, mt) = clean(source, source_mask), clean(target, target_mask)
    across = jnp.asarray(lines).T
    ps, pt = (jnp.matmul(f, across, precision="highest") for f in (fs, ft))
    gaps, shares = quantile_gaps(ps, pt, ms, mt)
    return (shares[:, None] * gaps**2).sum(0).mean()


def quantile_gaps(
    source: Float[Array, "rows columns"], target: Float[Array, "others columns"], source_mask: Any, target_mask: Any
) -> tuple[Float[Array, "pieces columns"], Float[Array, " pieces"]]:
    """`F_s⁻¹ − F_t⁻¹` of each column on the pieces of (0, 1) where it is constant, and the lengths of these pieces.

    The quantile function of n rows jumps at `i / n`. The pieces lie between the jumps of both, measured in units of
    `1 / (n m)`, so in whole numbers. Of masked rows the lengths are 0.

    Raises:
      ValueError: for so many rows that their product does not fit an int32.
    """
    rows, others = len(source), len(target)
    if rows * others >= 2**31:
        raise ValueError(f"{rows} and {others} rows: give fewer, because their product must be below 2^31")
    ms, mt = jnp.asarray(source_mask) > 0, jnp.asarray(target_mask) > 0
    n, m = ms.sum(dtype=jnp.int32), mt.sum(dtype=jnp.int32)
    jumps = jnp.minimum(jnp.arange(1, rows + 1), n) * m, jnp.minimum(jnp.arange(1, others + 1), m) * n
    ends = jnp.sort(jnp.concatenate(jumps))
    shares = jnp.diff(ends, prepend=0) / jnp.maximum(n * m, 1)
    place, other = (jnp.maximum((ends - 1) // jnp.maximum(count, 1), 0) for count in (m, n))
    gaps = _ordered(source, ms, place) - _ordered(target, mt, other)
    return gaps, shares.astype(gaps.dtype)


def _ordered(values: Array, kept: Array, places: Array) -> Array:
    """Sorts each column, with masked rows last as zeros, and returns the values at the given places.

    It uses one gather, because XLA ends the process when it shards the gradient of `sort` over rows of uneven parts.
    """
    v = jnp.where(kept[:, None], values, 0.0)
    order = jnp.argsort(jnp.where(kept[:, None], jax.lax.stop_gradient(v), jnp.inf), axis=0)
    return jnp.take_along_axis(v, order[places], axis=0)

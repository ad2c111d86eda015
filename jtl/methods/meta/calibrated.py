"""Distribution calibration: Gaussians of new classes, from few examples and the statistics of similar base classes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Integer, Shaped

from jtl.checked import positive, whole, within
from jtl.methods.finetune.on_features import checked_examples, minimise
from jtl.methods.meta.transductive import labelled
from jtl.methods.terms import squared_distances
from jtl.typing import Key


class BaseClasses(NamedTuple):
    """The mean and covariance of the features of each base class.

    Args:
      mean: μ, one row per class.
      root: R with `R Rᵀ = Σ`, one matrix per class.
    """

    mean: Float[Array, "classes features"]
    root: Float[Array, "classes features features"]


def base_classes(features: Float[ArrayLike, "rows features"], y: Integer[ArrayLike, "rows"]) -> BaseClasses:
    """The mean and the unbiased covariance of each class, computed in float64; see `calibrated` for which features.

    Args:
      features: features of base examples, such as those that `jtl.collect` returns under `read`.
      y: labels; every class from 0 to the largest label has at least two rows.

    Raises:
      ValueError: for features that are no matrix or not finite, labels that do not fit them, or a class with fewer than
        two rows.

    Example:
      >>> import numpy as np, jtl
      >>> base = jtl.learners.base_classes(np.array([[1.0], [3.0], [0.0], [4.0]]), np.array([0, 0, 1, 1]))
      >>> base.mean.ravel().tolist(), np.square(base.root).ravel().round(4).tolist()
      ([2.0, 2.0], [2.0, 8.0])

    Yang et al., Free Lunch for Few-shot Learning: Distribution Calibration, 2021, arXiv 2101.06395.
    """
    given = checked_examples(features)
    rows, y = np.asarray(given, np.float64), np.asarray(y)
    if y.shape != rows.shape[:1] or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise ValueError(f"y of shape {y.shape} and dtype {y.dtype}: give an integer of at least 0 for each row")
    counts = np.bincount(y)
    if counts.min() < 2:
        few = int(counts.argmin())
        raise ValueError(f"base class {few} has {counts[few]} rows: a covariance needs two or more")
    means, roots = [], []
    for k in range(len(counts)):
        own = rows[y == k]
        means.append(own.mean(0))
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(own.T)))
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
    return BaseClasses(jnp.asarray(np.stack(means), given.dtype), jnp.asarray(np.stack(roots), given.dtype))


def calibrated(
    support: Float[ArrayLike, "rows features"],
    y: Integer[ArrayLike, "rows"],
    queries: Float[ArrayLike, "queries features"],
    base: BaseClasses,
    key: Key,
    *,
    way: int,
    power: float = 0.5,
    nearest: int = 2,
    dispersion: float = 0.21,
    samples: int = 750,
    penalty: float = 1.0,
    weights: Shaped[ArrayLike, "rows"] | None = None,
    max_steps: int = 100,
) -> Float[Array, "queries way"]:
    """Logits of a logistic regression on the support set and on features sampled around each of its examples.

    The features are raised to a power, `x = f^β` (Tukey's ladder of powers), to be more like a Gaussian. For each
    example, features are drawn from `N((x + Σ_i μ_i) / (k + 1), Σ_i Σ_i / k + α 1 1ᵀ)`, with sums over the k base
    classes whose means are nearest to x; α is added to every entry of the matrix, as in the authors' code. The
    regression minimises `Σ CE + λ/2 ‖W‖²` over the examples and the samples, by at most `max_steps` steps of L-BFGS.

    It is inductive: the result for a query does not depend on the others. It is for features that no longer train.
    `jax.vmap` maps it over tasks; pass `base` as an argument of what is compiled, because it is large.

    Args:
      support: features of the support set, not negative unless `power` is 1, such as features after a ReLU.
      y: its labels in [0, way). A label outside makes the result NaN, if the row counts.
      queries: features of the queries, not negative unless `power` is 1.
      base: `base_classes(f)` of base examples in the paper, which takes powers of new examples only. That fits features
        near 1, where `f` and `f^β` have one scale. For larger or smaller ones give `base_classes(f**power)`: otherwise
        the means μ lie far from x, and the result can be worse than that of the examples alone.
      key: key for the samples. An example's samples depend on its place, not on the other examples.
      way: number of classes. A class without support gets probability 0.
      power: β in (0, 1].
      nearest: k.
      dispersion: α.
      samples: number of samples for each example; the paper draws 750 for each class.
      penalty: λ; the inverse of scikit-learn's C.
      weights: weight or mask of each row of the support set, and of its samples; None for 1.
      max_steps: the largest number of L-BFGS steps.

    Raises:
      ValueError: for numbers out of range, more nearest classes than base classes, arrays that do not fit each other,
        or negative features with a power below 1. While tracing, negative features give NaN instead.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, jtl
      >>> rows = np.abs(np.random.default_rng(0).normal(size=(40, 2))) + np.repeat([[0, 4], [4, 0]], 20, 0)
      >>> base = jtl.learners.base_classes(rows, np.repeat([0, 1], 20))
      >>> support, queries = jnp.array([[0.0, 9.0], [9.0, 0.0]]), jnp.array([[1.0, 16.0], [16.0, 4.0]])
      >>> logits = jtl.learners.calibrated(support, jnp.arange(2), queries, base, jax.random.key(0), way=2, nearest=1)
      >>> logits.argmax(1).tolist()
      [0, 1]

    Yang et al., Free Lunch for Few-shot Learning: Distribution Calibration, 2021, arXiv 2101.06395.
    """
    whole(1, way=way, nearest=nearest, samples=samples, max_steps=max_steps)
    within("(0, 1]", power=power)
    within("[0, inf)", dispersion=dispersion)
    positive(penalty=penalty)
    if nearest > len(base.mean):
        raise ValueError(f"nearest={nearest}: there are {len(base.mean)} base classes")
    z, member = labelled(support, y, way, weights)
    width = base.mean.shape[1:]
    q = jnp.asarray(queries).astype(z.dtype)
    if z.shape[1:] != width or q.ndim != 2 or q.shape[1:] != width:
        raise ValueError(f"support {z.shape} and queries {q.shape} do not fit base classes of {width[0]} features")
    x, q = powers(z, power, "support"), powers(q, power, "queries")
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(x)))
    drawn = jax.vmap(lambda own, row: sampled(own, row, base, nearest, dispersion, samples))(keys, x)
    rows = jnp.concatenate([x, drawn.reshape(-1, x.shape[1])])
    each, label = member.sum(1), jnp.where(member > 0, 1, 0).argmax(1)
    each, label = (jnp.concatenate([a, jnp.repeat(a, samples)]) for a in (each, label))
    start = jnp.zeros((rows.shape[1] + 1, way), rows.dtype)
    enough = float(jnp.finfo(rows.dtype).eps) ** 0.75
    w, _ = minimise(start, rows, label, each, penalty, enough, max_steps)
    counts = member.sum(0)
    some = (counts > 0).any() | jnp.isnan(each).any()
    w = jnp.where(some, w, 0)
    return jnp.where(((counts > 0) | ~(counts > 0).any())[None], q @ w[:-1] + w[-1:], -jnp.inf)


def powers(f: Float[Array, "rows features"], power: float, name: str) -> Float[Array, "rows features"]:
    """`f^β`; a negative entry is refused where it is known, and NaN where it is traced.

    Raises:
      ValueError: naming the features, for a negative entry and a power that is not 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.meta.calibrated import powers
      >>> powers(jnp.array([[4.0]]), 0.5, "queries").tolist()
      [[2.0]]
    """
    if power == 1:
        return f
    if not isinstance(f, Tracer) and bool((f < 0).any()):
        raise ValueError(
            f"{name}: {int((f < 0).any(1).sum())} of {len(f)} rows have negative features, which have no power"
            f" {power}: give features after a ReLU, or power=1"
        )
    return f**power


def sampled(
    key: Key, x: Float[Array, " features"], base: BaseClasses, nearest: int, dispersion: float, samples: int
) -> Float[Array, "samples features"]:
    """Features around one example; sums of Gaussians, because covariances of independent terms add up.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jtl.methods.meta.calibrated import BaseClasses, sampled
      >>> base = BaseClasses(jnp.array([[2.0], [9.0]]), jnp.zeros((2, 1, 1)))
      >>> sampled(jax.random.key(0), jnp.array([1.0]), base, 1, 0.0, 2).tolist()
      [[1.5], [1.5]]
    """
    place = jax.lax.top_k(-squared_distances(x[None], base.mean)[0], nearest)[1]
    mean = (x + base.mean[place].sum(0)) / (nearest + 1)
    inside, shared = jax.random.split(key)
    own = jax.random.normal(inside, (samples, nearest, len(x)), x.dtype)
    spread: Any = jnp.einsum("snd,nfd->sf", own, base.root[place]) / nearest**0.5
    return mean[None] + spread + dispersion**0.5 * jax.random.normal(shared, (samples, 1), x.dtype)

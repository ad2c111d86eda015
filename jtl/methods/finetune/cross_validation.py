"""Logistic regression on features, with a penalty chosen by cross-validation."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jtl.methods.finetune.on_features import FLOOR, Linear, minimise

NEAR = 1e-10
"""How far above its minimum the objective may be, which is at most about `‖gradient‖² / 2λ` by strong convexity in W.

Held-out losses change with W's distance to the minimum, and thus with the square root of this number: they are accurate
to a few 1e-6, less than `EQUAL`.
"""
EQUAL = 1e-5
"""Held-out losses that differ by no more than this count as equal."""
SPREAD = 0.1
"""The share of the mean standard deviation added to each, so that a nearly constant feature does not dominate."""


class CrossValidated(NamedTuple):
    """A classifier, and the results by which its penalty was chosen.

    Attributes:
      fitted: the classifier, fitted on all examples with the chosen penalty.
      losses: for each penalty, the mean held-out cross-entropy, with each example predicted without its own fold.
      logits: the held-out logits at the chosen penalty, [examples, classes].
    """

    fitted: Linear
    losses: np.ndarray
    logits: np.ndarray


def cross_validated(
    x: Float[ArrayLike, "examples width"],
    y: Int[ArrayLike, "examples"],
    folds: Int[ArrayLike, "folds"],
    penalties: Sequence[float],
    *,
    classes: int,
    weights: Float[ArrayLike, "weights"] | None = None,
    standardise: bool = False,
    bias: bool = True,
    max_steps: int = 1000,
) -> CrossValidated:
    """Minimises `Σ_i s_i CE(x_i W + b, y_i) / Σ_i s_i + λ/2 ‖W‖²` with the λ of the lowest held-out cross-entropy.

    For each fold and each λ, a classifier is fitted on the other folds and predicts this fold. Every example is
    predicted once, so the choice is based on all examples. The classifier is then fitted on all examples with the
    chosen λ; of equally good ones (to 1e-5 in the loss), the largest is chosen. The loss is a mean rather than a sum,
    so that λ means the same with all examples as with some folds: it is `penalty / examples` of `logistic_regression`.
    The bias is not penalised.

    Args:
      x: features.
      y: labels in [0, classes).
      folds: the fold of each example, any integers; examples that belong together, such as those of one speaker, must
        be in the same fold.
      penalties: the values of λ to try, each positive.
      classes: number of classes.
      weights: s, not negative, used in the fits and in the held-out loss; None for all ones.
      standardise: penalise `Σ_j d_j² ‖W_j‖²` instead. d_j is proportional to the standard deviation of feature j plus a
        tenth of the mean standard deviation, scaled such that `Σ_j ((x_ij − x̄_j) / d_j)²` averages to 1 over examples.
        The scale of the features, single or all, then does not matter, and the same penalties suit every network.
      bias: whether to add b; without it, b is 0.
      max_steps: the largest number of L-BFGS steps for each fit; a RuntimeWarning tells if they do not suffice.

    Raises:
      ValueError: for fewer than two folds, labels, penalties or weights out of range, features that are not finite, or
        lengths that differ.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import cross_validated
      >>> x = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
      >>> found = cross_validated(x, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), (0.01, 0.1), classes=2)
      >>> found.fitted.penalty, found.logits.argmax(1).tolist()
      (0.01, [0, 0, 1, 1])

    Stone, Cross-Validatory Choice and Assessment of Statistical Predictions, 1974.
    """
    x, y, folds, weights = _checked(x, y, folds, weights, classes)
    lambdas = [float(p) for p in penalties]
    if not lambdas or not all(p > 0 and np.isfinite(p) for p in lambdas):
        raise ValueError(f"penalties={penalties}: give at least one; each is positive and finite")
    order, names = sorted(lambdas, reverse=True), np.unique(folds)
    # With a free bias the minimum is the same, and L-BFGS needs fewer steps.
    middle = x.mean(0, dtype=np.float64) if bias else np.zeros(x.shape[1])
    size, norm = standard_sizes(x, standardise)
    unit = 1.0 if standardise else norm**2  # unit of the penalty on features scaled to norm 1
    found = {p: np.zeros((len(x), classes)) for p in order}
    with jax.enable_x64(True):
        wide, rows = jnp.asarray((x - middle) / size, jnp.float64), jnp.asarray(y)

        def fit(w: Any, seen: np.ndarray, penalty: float) -> Any:
            own = penalty / unit
            enough = max(float(np.sqrt(2 * own * NEAR / w.size)), FLOOR)
            w, slope = minimise(w, wide, rows, jnp.asarray(seen), own * seen.sum(), enough, max_steps, float(bias))
            if not float(slope) <= 10 * enough:
                warnings.warn(
                    f"logistic regression at penalty={penalty} stopped at a gradient of {float(slope):.1e}, not"
                    f" {enough:.1e}: give larger penalties, or more max_steps",
                    RuntimeWarning,
                    stacklevel=3,
                )
            return w

        start = jnp.zeros((x.shape[1] + 1, classes), jnp.float64)
        for name in names:
            w, held = start, folds == name
            for p in order:  # each fit starts from the previous one
                w = fit(w, np.where(held, 0.0, weights), p)
                found[p][held] = np.asarray(wide)[held] @ np.asarray(w[:-1]) + np.asarray(w[-1])
        losses = {p: _cross_entropy(z, y, weights) for p, z in found.items()}
        best = next(p for p in order if losses[p] <= min(losses.values()) + EQUAL)
        w = start
        for p in order[: order.index(best) + 1]:
            w = fit(w, weights, p)
        w = np.asarray(w)
    kernel, kind = w[:-1] / size[:, None], x.dtype
    fitted = Linear(jnp.asarray(kernel, kind), jnp.asarray(w[-1] - middle @ kernel, kind), best)
    return CrossValidated(fitted, np.array([losses[p] for p in lambdas]), found[best].astype(kind))


def standard_sizes(x: np.ndarray, standardise: bool = True) -> tuple[np.ndarray, float]:
    """Returns d of `cross_validated` for each feature, [width], and the factor in it that makes the mean norm 1.

    Args:
      x: features, [examples, width].
      standardise: whether d follows the standard deviations; otherwise it is the factor alone.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune.cross_validation import standard_sizes
      >>> x = np.array([[0.0, 0.0], [2.0, 20.0]])
      >>> round(float((((x - x.mean(0)) / standard_sizes(x)[0]) ** 2).sum(1).mean()), 6)
      1.0
    """
    spread = x.std(0, dtype=np.float64)
    size = spread + SPREAD * spread.mean() if standardise else np.ones_like(spread)
    size = np.where(size > 0, size, 1)
    norm = float(np.sqrt(((spread / size) ** 2).sum())) or 1.0
    return size * norm, norm


def _cross_entropy(z: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    top = z.max(1)
    each = top + np.log(np.exp(z - top[:, None]).sum(1)) - z[np.arange(len(y)), y]
    return float((weights * each).sum() / weights.sum())


def _checked(x: Any, y: Any, folds: Any, weights: Any, classes: int) -> tuple[np.ndarray, ...]:
    x, y, folds = np.asarray(x), np.asarray(y), np.asarray(folds)
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    x = x.astype(np.promote_types(x.dtype, np.float32))
    if x.ndim != 2 or not len(x) == len(y) == len(folds) == len(weights):
        raise ValueError(
            f"features {x.shape}, {len(y)} labels, {len(folds)} folds, {len(weights)} weights: give [examples, width],"
            " and as many of each"
        )
    if not np.isfinite(x).all():
        raise ValueError(f"features are not finite in {int((~np.isfinite(x)).any(1).sum())} of {len(x)} rows")
    if len(np.unique(folds)) < 2:
        raise ValueError(f"folds hold {np.unique(folds).tolist()} alone: give each example one of two or more")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"weights hold {weights.min()} to {weights.max()}: they are finite and not negative")
    if not all(weights[folds != name].sum() > 0 for name in np.unique(folds)):
        raise ValueError("all weights beside one fold are 0: nothing is left to fit on")
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"labels lie in [{y.min()}, {y.max()}], with classes={classes}; give [0, classes)")
    return x, y, folds, weights

"""LogME: the evidence of a linear model on features, at its best prior and noise."""

import math

import numpy as np
from jaxtyping import ArrayLike, Float, Num

from jtl.selection.checked import rows, two_classes

# The ratio of prior to noise precision is searched within this factor of the largest squared singular value. Beyond it,
# the evidence is flat or, if features fit the labels exactly, grows without bound.
_RANGE = 1e10
_GOLDEN = (math.sqrt(5) - 1) / 2


def logme(features: Float[ArrayLike, "examples width"], y: Num[ArrayLike, "..."]) -> float:
    """The log evidence of labels under a Bayesian linear model on the features, averaged over examples and outputs.

    It is `max_{α,β} log N(y; 0, β⁻¹ I + α⁻¹ F Fᵀ) / n`. For a given ratio `t = α/β` the best β is
    `β = n / yᵀ(I + F Fᵀ/t)⁻¹ y`, so only t is searched. This also holds for fewer examples than features, for which the
    fixed-point iteration of the authors' code drops a term.

    Args:
      features: F, features of the pretrained backbone, not centred.
      y: integer labels, each class against the others; or floating-point regression targets, [examples] or [examples,
        outputs].

    Returns:
      A number in nats per example; higher is better. Features that fit the labels exactly get a large finite number,
      because t stays within 1e±10 times the largest squared singular value.

    Raises:
      ValueError: for features that are all 0, values that are not finite, a target that is 0 everywhere, or fewer
        than two classes.

    Example:
      >>> import numpy as np
      >>> from jtl.selection.ranking import logme
      >>> y = np.arange(30) % 3
      >>> noise = np.random.default_rng(0).normal(size=(30, 4))
      >>> logme(noise + np.eye(4)[y], y) > logme(noise, y)
      True

    You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, 2021, arXiv 2102.11005.
    """
    f = rows("features", features)
    n = len(f)
    if np.issubdtype(np.asarray(y).dtype, np.floating):
        targets = rows("y", np.asarray(y).reshape(len(np.asarray(y)), -1))
        if len(targets) != n:
            raise ValueError(f"y has {len(targets)} rows, features {n}: give one target for each example")
    else:
        index, classes = two_classes(y, n)
        targets = np.eye(classes)[index]
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    if not s[0] > 0:
        raise ValueError("features are all 0: there is nothing to fit")
    empty = np.flatnonzero(~targets.any(0))
    if empty.size:
        raise ValueError(f"y is 0 everywhere in output {empty[0]}: its evidence has no bound")
    return float(np.mean([_evidence(target, u, s**2) / n for target in targets.T]))


def _evidence(y: np.ndarray, u: np.ndarray, variances: np.ndarray) -> float:
    """The largest log evidence over t: by a grid, because there may be several maxima, then by golden section."""
    n = len(y)
    along = (u.T @ y) ** 2
    rest = max(float(y @ y - along.sum()), 0.0)

    def at(log_t: float) -> float:
        t = math.exp(log_t)
        q = float((along * t / (t + variances)).sum()) + rest
        return -0.5 * (n * math.log(2 * math.pi * q / n) + n + float(np.log1p(variances / t).sum()))

    top = math.log(variances[0])
    grid = np.linspace(top - math.log(_RANGE), top + math.log(_RANGE), 201)
    best = int(np.argmax([at(t) for t in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    for _ in range(60):
        width = _GOLDEN * (high - low)
        if at(high - width) >= at(low + width):
            high = low + width
        else:
            low = high - width
    return max(at(float(grid[best])), at(float((low + high) / 2)))

"""Kernel mean matching: weights of source rows under which the source's mean in feature space is the target's."""

import warnings

import numpy as np
from jaxtyping import ArrayLike, Float

from jtl.checked import positive
from jtl.methods.adapt.on_features import pair
from jtl.methods.adapt.row_distances import gaussian_kernel, median_distance

ENOUGH = 1e-10
"""How far the conditions of the minimum may be from fulfilled, where the gradient is of the size of 1."""
MOST_STEPS = 100


def kernel_mean_matching(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others columns"],
    *,
    width: float | None = None,
    bound: float = 1000.0,
    slack: float | None = None,
) -> np.ndarray:
    """The weights of `min_w ½ wᵀ K w − κᵀ w`, `0 ≤ w_i ≤ B`, `|Σ_i w_i − n| ≤ n ε`.

    `K_il = k(x_i, x_l)` of the source, `κ_i = n/m Σ_j k(x_i, x'_j)` with the target, and
    `k(x, x') = exp(−‖x − x'‖² / 2σ²)`. The weights correct a covariate shift: the inputs are distributed differently in
    the target, and the labels given an input are not. The quadratic program is solved by an interior-point method, so K
    may be singular, as that of a wide kernel is up to rounding. The time grows with the cube of the source's rows:
    1,000 rows take seconds.

    Args:
      source: features.
      target: features.
      width: σ; None for the median distance between two rows, computed on at most 2,000 of them.
      bound: B, the largest weight.
      slack: ε; None for the paper's `1 − 1/√n`.

    Returns:
      Weights [rows], float64. Their mean is 1 up to ε.

    Raises:
      ValueError: for features that are not finite matrices of one width, fewer than two rows, numbers that are not
        positive, or `B ≤ 1 − ε`, which no weights can satisfy.

    Example:
      >>> import numpy as np, jtl
      >>> source, target = np.array([[0.0], [0.0], [0.0], [5.0]]), np.array([[0.0], [5.0]])
      >>> jtl.alignments.kernel_mean_matching(source, target, width=1.0).round(3).tolist()
      [0.667, 0.667, 0.667, 2.0]

    Huang et al., Correcting Sample Selection Bias by Unlabeled Data, 2006.
    """
    xs, xt = pair(source, target)
    n = len(xs)
    epsilon = 1 - 1 / n**0.5 if slack is None else slack
    sigma = median_distance(np.concatenate([xs, xt])) if width is None else width
    positive(width=sigma, bound=bound, slack=epsilon)
    if bound <= 1 - epsilon:
        raise ValueError(f"bound={bound}, slack={epsilon}: weights up to the first cannot sum to n (1 − slack)")
    mean = gaussian_kernel(xs, xt, sigma).mean(1)
    return _minimum(gaussian_kernel(xs, xs, sigma) / n, mean, float(bound), float(epsilon))


def _minimum(p: np.ndarray, q: np.ndarray, bound: float, epsilon: float) -> np.ndarray:
    """`min_w ½ wᵀ P w − qᵀ w` in the box and between the two sums, by primal-dual Newton steps inside of them."""
    n = len(q)
    low, high = n * (1 - epsilon), n * (1 + epsilon)
    w = np.full(n, (max(0.0, low / n) + min(bound, high / n)) / 2)
    # How far it is to w ≥ 0, w ≤ B, Σ w ≥ low, Σ w ≤ high, and their multipliers.
    room: list = [w, bound - w, w.sum() - low, high - w.sum()]
    z: list = [1 / s for s in room]
    gap = np.inf
    for _ in range(MOST_STEPS):
        gap = sum(float(np.sum(s * m)) for s, m in zip(room, z, strict=True)) / (2 * n + 2)
        slope = p @ room[0] - q
        if gap <= ENOUGH and np.abs(slope - z[0] + z[1] - z[2] + z[3]).max() <= ENOUGH:
            return np.clip(room[0], 0.0, bound)
        curve = [m / s for s, m in zip(room, z, strict=True)]
        pull = [0.1 * gap / s for s in room]
        # The share of the sums, c 1 1ᵀ, grows without bound: the formula of Sherman and Morrison keeps the digits of P.
        sides = np.stack([pull[0] - pull[1] + pull[2] - pull[3] - slope, np.ones(n)], 1)
        step, ones = np.linalg.solve(p + np.diag(curve[0] + curve[1]), sides).T
        more = step.sum() / (1 + (curve[2] + curve[3]) * ones.sum())
        step = step - (curve[2] + curve[3]) * more * ones
        ways = [step, -step, more, -more]
        moves = [g - m - c * d for g, m, c, d in zip(pull, z, curve, ways, strict=True)]
        shrink = max(float(np.max(-d / s)) for s, d in zip([*room, *z], [*ways, *moves], strict=True))
        far = min(1.0, 0.99 / max(shrink, 1e-300))
        room = [s + far * d for s, d in zip(room, ways, strict=True)]
        z = [m + far * d for m, d in zip(z, moves, strict=True)]
    warnings.warn(
        f"kernel mean matching stopped after {MOST_STEPS} steps at a gap of {gap:.1e}: give another width",
        RuntimeWarning,
        stacklevel=3,
    )
    return np.clip(room[0], 0.0, bound)

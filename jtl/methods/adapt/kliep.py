"""KLIEP: weights of source rows as a mixture of kernels, fitted by the likelihood of the target."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from jtl.checked import each, positive, seed_of, whole
from jtl.methods.adapt.on_features import pair
from jtl.methods.adapt.row_distances import median_distance, squared_distances

WIDTHS = 2.0 ** np.arange(-3, 3)
"""Candidates for σ, as multiples of the median distance between two rows."""
ENOUGH = 1e-9
"""The largest gap between the mean log likelihood and its maximum."""
MOST_STEPS = 200


def kliep(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others columns"],
    *,
    width: float | Sequence[float] | None = None,
    centres: int = 100,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """The weights `w(x) = Σ_l α_l exp(−‖x − c_l‖² / 2σ²)` of `max_α Σ_j log w(x'_j)`, `α ≥ 0`, `1/n Σ_i w(x_i) = 1`.

    x_i are the source's rows, x'_j the target's, and the centres c are rows of the target. `w` estimates the ratio of
    the target's density to the source's by the least Kullback-Leibler divergence of the target from `w` times the
    source. The weights correct a covariate shift: the inputs are distributed differently in the target, and the labels
    given an input are not. Several widths are compared by cross-validation: the one with the highest mean of `log w` on
    held-out folds is chosen, and the centres of a fold are not used to judge it.

    Args:
      source: features.
      target: features.
      width: σ, or several to choose from; None for six around the median distance between two rows, computed on at most
        2,000 of them.
      centres: the largest number of centres; if the target has more rows, they are drawn from these.
      folds: number of folds of the target's rows.
      seed: the seed of the centres and folds.

    Returns:
      Weights [rows], float64, with a mean of 1.

    Raises:
      ValueError: for features that are not finite matrices of one width, fewer than two rows, numbers out of range, no
        width, or several widths with more folds than rows of the target.

    Example:
      >>> import numpy as np, jtl
      >>> source, target = np.array([[0.0], [0.0], [0.0], [5.0]]), np.array([[0.0], [5.0]])
      >>> jtl.alignments.kliep(source, target, width=1.0).round(3).tolist()
      [0.667, 0.667, 0.667, 2.0]

    Sugiyama et al., Direct Importance Estimation for Covariate Shift Adaptation, 2008.
    """
    xs, xt = pair(source, target)
    whole(1, centres=centres)
    whole(2, folds=folds)
    seed_of(seed)
    given: Any = WIDTHS * median_distance(np.concatenate([xs, xt])) if width is None else width
    widths: list = list(given) if np.ndim(given) else [given]
    if not widths:
        raise ValueError("width is empty: give one or more")
    positive(**each("width", widths))
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(xt))[:centres]
    here, there = squared_distances(xs, xt[chosen]), squared_distances(xt, xt[chosen])
    if len(widths) > 1:
        if folds > len(xt):
            raise ValueError(f"folds={folds}: the target has {len(xt)} rows, and a fold needs one")
        parts = np.array_split(draw.permutation(len(xt)), folds)
        widths = [max(widths, key=lambda sigma: _held_out(here, there, chosen, parts, sigma))]
    logs = _logs(here, here, widths[0])
    return np.exp(logs) @ _mixture(_logs(here, there, widths[0]))


def _logs(here: np.ndarray, at: np.ndarray, width: float) -> np.ndarray:
    """`log k(x, c_l) / mean_i k(x_i, c_l)` of rows x: kernels of the mean 1 on the source, which cannot underflow."""
    own = here / (-2 * width**2)
    top = own.max(0)
    return at / (-2 * width**2) - (top + np.log(np.exp(own - top[None]).mean(0)))[None]


def _held_out(here: np.ndarray, there: np.ndarray, chosen: np.ndarray, parts: list, width: float) -> float:
    """The mean over folds of the mean of `log w` on rows that the fit has not seen."""
    logs, found = _logs(here, there, width), []
    for part in parts:
        centres, rows = ~np.isin(chosen, part), ~np.isin(np.arange(len(there)), part)
        if not centres.any():
            continue
        seen, rest = logs[rows][:, centres], logs[part][:, centres]
        top = rest.max(1)
        found.append(np.mean(top + np.log(np.maximum(np.exp(rest - top[:, None]) @ _mixture(seen), 1e-300))))
    return float(np.mean(found))


def _mixture(logs: np.ndarray) -> np.ndarray:
    """The shares π of `max_π mean_j log Σ_l π_l D_jl`, `π ≥ 0`, `Σ π = 1`, with `D = exp(logs)`.

    It is the minimum of `Σ π − mean_j log (D π)_j` over `π ≥ 0`, whose shares sum to 1, by primal-dual Newton steps. At
    shares of the sum 1 no others have a mean log likelihood larger by more than `log max_l mean_j D_jl / (D π)_j`.
    """
    d = np.exp(logs - logs.max(1)[:, None])  # the shares do not depend on the scale of a row
    rows, count = d.shape

    def residual(pi: np.ndarray, z: np.ndarray, pull: float) -> np.ndarray:
        return np.r_[1 - (d / (d @ pi)[:, None]).mean(0) - z, pi * z - pull]

    pi, z, over = np.full(count, 1 / count), np.ones(count), np.inf
    for _ in range(MOST_STEPS):
        share = d / (d @ pi)[:, None]
        over = float(share.mean(0).max()) * pi.sum() - 1
        if over <= ENOUGH:
            return pi / pi.sum()
        pull = 0.1 * float(pi @ z) / count
        off = residual(pi, z, pull)
        step = np.linalg.solve(share.T @ share / rows + np.diag(z / pi), -off[:count] - off[count:] / pi)
        move = (-off[count:] - z * step) / pi
        far = min(1.0, 0.99 / max(float(np.max(np.r_[-step / pi, -move / z])), 1e-300))
        while far > 1e-6 and np.linalg.norm(residual(pi + far * step, z + far * move, pull)) > np.linalg.norm(off):
            far /= 2
        pi, z = pi + far * step, z + far * move
    warnings.warn(
        f"KLIEP stopped after {MOST_STEPS} steps at up to {over:.1e} below the likelihood's maximum",
        RuntimeWarning,
        stacklevel=3,
    )
    return pi / pi.sum()

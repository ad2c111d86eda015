"""The logistic regression that distinguishes target rows from source rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Classifier(NamedTuple):
    """`P(target | f) = σ(wᵀ (f − middle) / scale + b)`, fitted on `n` source and `m` target rows."""

    middle: np.ndarray
    scale: np.ndarray
    w: np.ndarray
    b: float
    n: int
    m: int

    def logit(self, at: np.ndarray) -> np.ndarray:
        """`log P(target | f) / P(source | f)` for each row."""
        return (at - self.middle) / self.scale @ self.w + self.b

    def ratio(self, at: np.ndarray) -> np.ndarray:
        """The ratio of the target's density to the source's, `(n / m) · P(target | f) / P(source | f)`."""
        return self.n / self.m * np.exp(np.clip(self.logit(at), -500, 500))

    def loss(self, source: np.ndarray, target: np.ndarray) -> float:
        """The sum of the cross-entropies over all rows."""
        return float(np.logaddexp(0, self.logit(source)).sum() + np.logaddexp(0, -self.logit(target)).sum())


def fitted(source: np.ndarray, target: np.ndarray, penalties: Sequence[float]) -> list[Classifier]:
    """One classifier for each penalty `½ λ ‖w‖²` on standardised features, by Newton's method.

    The weights lie in the span of the rows, so with fewer rows than features as many coordinates as rows are enough.

    Args:
      source: features [n, dim].
      target: features [m, dim].
      penalties: λ, from large to small, because each fit starts from the previous one. Infinity gives w = 0.
    """
    x = np.concatenate([source, target])
    middle, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)
    x = (x - middle) / scale
    basis = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else None
    x = np.column_stack([x if basis is None else x @ basis, np.ones(len(x))])
    y = np.r_[np.zeros(len(source)), np.ones(len(target))]
    w, found = np.zeros(x.shape[1]), []
    for penalty in penalties:
        if np.isinf(penalty):
            w[-1] = np.log(len(target) / len(source))
        else:
            w = _newton(x, y, penalty * np.r_[np.ones(x.shape[1] - 1), 0], w)
        own = w[:-1] if basis is None else basis @ w[:-1]
        found.append(Classifier(middle, scale, own, float(w[-1]), len(source), len(target)))
    return found


def _newton(x: np.ndarray, y: np.ndarray, ridge: np.ndarray, w: np.ndarray) -> np.ndarray:
    w = w.copy()
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        slope = x.T @ (p - y) + ridge * w
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-10)
        step = np.linalg.solve(curve, slope)
        w -= step
        if np.abs(step).max() < 1e-10:
            break
    return w

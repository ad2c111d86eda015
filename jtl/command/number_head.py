"""Fits the head of a regression in closed form, with a penalty that held-out examples choose."""

from collections.abc import Sequence

import jax
import numpy as np

from jtl.command.head import FOLDS, Crossed
from jtl.command.source import Examples
from jtl.command.splits import folds
from jtl.methods.finetune.cross_validation import standard_sizes
from jtl.methods.finetune.on_features import ridge
from jtl.model import Variables
from jtl.pretrained.load import Pretrained

PENALTIES = (1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0)
"""λ of the mean objective on standardised features; the largest leaves little but the mean of the labels."""
EQUAL = 1e-6
"""Held-out errors that differ by no more than this share count as equal."""


def crossed_ridge(
    loaded: Pretrained, features: np.ndarray, examples: Examples, seed: int, centre: float, scale: float
) -> Crossed:
    """Fits a head by ridge regression, with the penalty of the lowest held-out squared error over `FOLDS` folds.

    It minimises `Σ_i (x_i w + b − t_i)² / n + λ ‖w‖²` on standardised features x and targets `t`, which are
    `(y − centre) / scale`. Of equally good penalties the largest is taken.

    Args:
      loaded: the network.
      features: the features of the examples that the head reads.
      examples: the examples to fit the head on.
      seed: the seed of the folds.
      centre: the centre of the training labels.
      scale: their scale.

    Returns:
      The head in the scaled unit, and its held-out predictions in the unit of the labels.
    """
    x, _ = standardised(features)
    t, dealt = (examples.labels - centre) / scale, folds(examples, FOLDS, seed)
    found = np.zeros((len(PENALTIES), len(t)))
    for fold in np.unique(dealt):
        held = dealt == fold
        found[:, held] = predictions(x[~held], t[~held], x[held], PENALTIES)
    best = lowest(((found - t[None]) ** 2).mean(1))
    variables = with_head(loaded, features, t, PENALTIES[best])
    return Crossed(
        variables, PENALTIES[best], int(dealt.max()) + 1, examples, found[best][:, None] * scale + centre
    )  # fmt: skip


def ridge_by(
    loaded: Pretrained, features: dict[str, np.ndarray], splits: dict[str, Examples], centre: float, scale: float
) -> Variables:
    """Fits the head on `train`, with the penalty of the lowest squared error on `val`."""
    x, (middle, size) = standardised(features["train"])
    held = (np.asarray(features["val"], np.float64) - middle) / size
    t, wanted = ((splits[part].labels - centre) / scale for part in ("train", "val"))
    best = lowest(((predictions(x, t, held, PENALTIES) - wanted[None]) ** 2).mean(1))
    return with_head(loaded, features["train"], t, PENALTIES[best])


def standardised(features: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Returns the features as `cross_validated(standardise=True)` scales them, and their middle and sizes.

    Raises:
      ValueError: for features that are not finite.
    """
    if not np.isfinite(features).all():
        raise ValueError(f"features are not finite in {int((~np.isfinite(features)).any(1).sum())} rows")
    x = np.asarray(features, np.float64)
    middle, (size, _) = x.mean(0), standard_sizes(x)
    return (x - middle) / size, (middle, size)


def predictions(x: np.ndarray, t: np.ndarray, held: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
    """Returns the predictions of ridge regressions for held-out rows, [penalties, held].

    One eigendecomposition serves all penalties: with centred `x = U S Vᵀ`, `w = V (S² + nλ)⁻¹ S Uᵀ t`.

    Args:
      x: standardised features to fit on, [examples, width].
      t: targets, [examples].
      held: features to predict for.
      penalties: values of λ.
    """
    middle, mean = x.mean(0), t.mean()
    a, b, other = x - middle, t - mean, held - middle
    tall = len(x) >= x.shape[1]
    values, vectors = np.linalg.eigh(a.T @ a if tall else a @ a.T)
    seen = other @ vectors if tall else (other @ a.T) @ vectors
    aim = vectors.T @ (a.T @ b if tall else b)
    return np.stack([seen @ (aim / (np.maximum(values, 0) + len(x) * p)) + mean for p in penalties])


def lowest(errors: np.ndarray) -> int:
    """Returns the index of the largest penalty whose error is as good as the lowest; penalties rise.

    Example:
      >>> lowest(np.array([0.5, 0.2, 0.2, 0.9]))
      2
    """
    return int(np.flatnonzero(errors <= errors.min() * (1 + EQUAL))[-1])


def with_head(loaded: Pretrained, features: np.ndarray, t: np.ndarray, penalty: float) -> Variables:
    """Returns the variables with a head fitted on all rows, for features that are not standardised."""
    x, (middle, size) = standardised(features)
    with jax.enable_x64(True):
        fitted = ridge(x, t[:, None], penalty * len(x))
        kernel, bias = np.asarray(fitted.kernel) / size[:, None], np.asarray(fitted.bias)
    out = {"kernel": kernel.astype(np.float32), "bias": (bias - middle @ kernel).astype(np.float32)}
    return Variables({**loaded.variables.params, "head": {"out": out}}, loaded.variables.stats)

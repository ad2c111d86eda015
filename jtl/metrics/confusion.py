"""Metrics of a confusion matrix: the matrix itself, precision, recall, F1, balanced accuracy, κ and φ."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Num

from jtl.metrics.accumulate import Metric
from jtl.metrics.elements import judged, spread

Average = str  # checked by value: "micro", "macro", "weighted" or "none"
Matrix = Num[ArrayLike, "classes classes"]


def confusion(classes: int) -> Metric:
    """The confusion matrix of a data set: row i, column j counts the elements of class i that are predicted as j.

    Args:
      classes: the number of classes.

    Returns:
      A metric of outputs [batch, ..., classes] and integer y [batch, ...]; its result is the matrix, in which an
      element counts as many times as its weight says. An element whose label is not a class does not count. If a logit
      of an element that counts is NaN, so is the whole matrix, and every number computed from it.

    Raises:
      ValueError: for fewer than 1 class; outputs with another number of classes, or labels that are not integers.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> metric = jtl.metrics.confusion(2)
      >>> metric.sums(jnp.eye(2)[jnp.array([0, 1, 1])], jnp.array([0, 0, 1]), None).tolist()
      [[1.0, 1.0], [0.0, 1.0]]
    """
    return Metric(_counter(classes), _same)


def precision(classes: int, average: Average = "macro") -> Metric:
    """`TP / (TP + FP)` of each class; see `f1` for averages and absent classes.

    Example:
      >>> import jtl
      >>> metric = jtl.metrics.precision(3, "weighted")
    """
    return Metric(_counter(classes), _Rate("precision", _checked(average)))


def recall(classes: int, average: Average = "macro") -> Metric:
    """`TP / (TP + FN)` of each class; see `f1` for averages and absent classes.

    Example:
      >>> import jtl
      >>> metric = jtl.metrics.recall(3, "none")
    """
    return Metric(_counter(classes), _Rate("recall", _checked(average)))


def f1(classes: int, average: Average = "macro") -> Metric:
    """`2 TP / (2 TP + FP + FN)` of each class, averaged.

    A ratio 0/0 is 0, as with scikit-learn's `zero_division=0`. "macro" is the mean over the classes that are true or
    predicted somewhere, as in scikit-learn without `labels`; "weighted" weights each class by the number of its true
    elements; "micro" counts all classes together, which is the accuracy; "none" returns one number per class.

    Args:
      classes: the number of classes.
      average: one of the above.

    Raises:
      ValueError: for fewer than 1 class, or another average.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> metric = jtl.metrics.f1(2)
      >>> found = metric.sums(jnp.eye(2)[jnp.array([0, 1, 1])], jnp.array([0, 0, 1]), None)
      >>> round(float(metric.finish(found)), 4)
      0.6667
    """
    return Metric(_counter(classes), _Rate("f1", _checked(average)))


def balanced_accuracy(classes: int) -> Metric:
    """The mean recall, `mean_c TP_c / (TP_c + FN_c)`, over the classes that are true somewhere.

    Example:
      >>> import jtl
      >>> metric = jtl.metrics.balanced_accuracy(3)

    Brodersen et al., The Balanced Accuracy and Its Posterior Distribution, 2010.
    """
    return Metric(_counter(classes), _balanced)


def matthews(classes: int) -> Metric:
    """The correlation of predicted and true classes, φ or R_K, in [-1, 1]; 0 if either has only one class.

    Example:
      >>> import jtl
      >>> metric = jtl.metrics.matthews(2)

    Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004.
    """
    return Metric(_counter(classes), _matthews)


def cohen_kappa(classes: int) -> Metric:
    """Agreement beyond chance, `(p_o − p_e) / (1 − p_e)`; 0 if `p_e` is 1.

    Example:
      >>> import jtl
      >>> metric = jtl.metrics.cohen_kappa(2)

    Cohen, A Coefficient of Agreement for Nominal Scales, 1960.
    """
    return Metric(_counter(classes), _kappa)


def macro_f1(matrix: Matrix) -> Array:
    """The mean over classes of `2 TP / (2 TP + FP + FN)`; classes that are neither true nor predicted do not count.

    Args:
      matrix: a confusion matrix, rows true, columns predicted.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> round(float(jtl.metrics.macro_f1(jnp.array([[1, 1], [0, 1]]))), 4)
      0.6667
    """
    return _Rate("f1", "macro")(matrix)


def _counter(classes: int) -> Callable[[Any, Any, Any], Array]:
    if classes < 1:
        raise ValueError(f"classes={classes}: there is at least one")

    def sums(outputs: Any, y: Any, weights: Any) -> Array:
        logits, y = judged(outputs, y, classes)
        w = spread(weights, y.shape)
        # one_hot of a label that is not a class is all zeros
        true, predicted = (jax.nn.one_hot(a.reshape(-1), classes) for a in (y, logits.argmax(-1)))
        weighted = true * w.reshape(-1, 1)
        nan = jnp.isnan(logits).any(-1).reshape(-1)  # the argmax of such logits is 0, like a prediction
        return jnp.where((nan & (weighted != 0).any(1)).any(), jnp.nan, weighted.T @ predicted)

    return sums


def _nan_of_nan(finish: Callable) -> Callable:
    """Makes the result NaN if the matrix has a NaN: comparisons with NaN are false, which would make a rate 0."""

    @functools.wraps(finish)
    def result(*args: Any) -> Array:
        return jnp.where(jnp.isnan(jnp.asarray(args[-1])).any(), jnp.nan, finish(*args))

    return result


@dataclass(frozen=True)
class _Rate:
    """A rate of a confusion matrix; compared by value, so that equal metrics share one compiled program."""

    rate: str
    average: Average

    @_nan_of_nan
    def __call__(self, matrix: Any) -> Array:
        matrix = jnp.asarray(matrix, jnp.promote_types(jnp.asarray(matrix).dtype, jnp.float32))
        right, true, predicted = jnp.diagonal(matrix), matrix.sum(1), matrix.sum(0)
        if self.average == "micro":
            right, true, predicted = right.sum(), true.sum(), predicted.sum()
        under = {"precision": predicted, "recall": true, "f1": (true + predicted) / 2}[self.rate]
        rates = _ratio(right, under)
        if self.average == "weighted":
            return _ratio((rates * true).sum(), true.sum())
        if self.average == "macro":
            seen = true + predicted > 0
            return jnp.where(seen, rates, 0.0).sum() / jnp.maximum(seen.sum(), 1)
        return rates


def _checked(average: Average) -> Average:
    if average not in ("micro", "macro", "weighted", "none"):
        raise ValueError(f"average={average!r}: 'micro', 'macro', 'weighted' or 'none'")
    return average


def _same(matrix: Any) -> Any:
    return matrix


def _ratio(over: Any, under: Any) -> Array:
    return jnp.where(under > 0, over / jnp.where(under > 0, under, 1.0), 0.0)


@_nan_of_nan
def _balanced(matrix: Any) -> Array:
    true = jnp.asarray(matrix).sum(1)
    return _ratio(jnp.diagonal(jnp.asarray(matrix)), true).sum() / jnp.maximum((true > 0).sum(), 1)


@_nan_of_nan
def _matthews(matrix: Any) -> Array:
    share = _shares(matrix)
    true, predicted = share.sum(1), share.sum(0)
    spread = (1 - (true**2).sum()) * (1 - (predicted**2).sum())
    return _ratio(jnp.trace(share) - (true * predicted).sum(), jnp.sqrt(jnp.maximum(spread, 0.0)))


@_nan_of_nan
def _kappa(matrix: Any) -> Array:
    share = _shares(matrix)
    chance = (share.sum(1) * share.sum(0)).sum()
    return _ratio(jnp.trace(share) - chance, 1 - chance)


def _shares(matrix: Any) -> Array:
    matrix = jnp.asarray(matrix, jnp.float32)
    return matrix / jnp.maximum(matrix.sum(), 1e-30)

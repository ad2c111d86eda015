"""Linear models on features from a frozen backbone: logistic regression and ridge regression."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

TOLERANCE = 1e-5
"""How far an entry of W may be from the minimum: at most about `|gradient| / λ`, by the sum's strong convexity."""
FLOOR = 1e-10
"""The gradient of the mean objective that float64 can reach for every penalty."""


class Linear(NamedTuple):
    """A linear map of features, `x @ kernel + bias`.

    Attributes:
      kernel: [width, outputs].
      bias: [outputs].
      penalty: the penalty with which it was fitted.
    """

    kernel: Any
    bias: Any
    penalty: float

    def __call__(self, x: Float[ArrayLike, "batch width"]) -> Array:
        """Logits or predictions, [batch, outputs]."""
        return jnp.asarray(x) @ self.kernel + self.bias[None]


def logistic_regression(
    x: Float[ArrayLike, "examples width"],
    y: Int[ArrayLike, "examples"],
    penalty: float | Sequence[float] = 1.0,
    *,
    classes: int,
    validation: tuple[Any, Any] | None = None,
    weights: Float[ArrayLike, "examples"] | None = None,
    max_steps: int = 1000,
) -> Linear:
    """Minimises `Σ_i s_i CE(x_i W + b, y_i) + λ/2 ‖W‖²` by L-BFGS; the bias is not penalised.

    λ is the inverse of scikit-learn's C. Of several penalties, the one with the highest validation accuracy is chosen,
    and of equally good ones the largest; each fit starts from the result of the previous one. The fit runs in float64
    whatever dtype the features have, and the result has their dtype.

    Args:
      x: features.
      y: labels in [0, classes).
      penalty: λ > 0, or several to choose from.
      classes: number of classes.
      validation: features and labels on which to choose the penalty; required for several penalties and not allowed for
        one.
      weights: s, one per example; None for 1. An example of weight 0 counts as absent.
      max_steps: the largest number of L-BFGS steps for each penalty; a RuntimeWarning tells if they do not suffice.

    Returns:
      The map from features to logits, with the chosen penalty.

    Raises:
      ValueError: for labels, penalties or weights out of range, features that are not finite, no examples, or several
        penalties without validation data or vice versa.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import logistic_regression
      >>> x = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
      >>> fitted = logistic_regression(x, np.array([0, 0, 1, 1]), 0.1, classes=2)
      >>> fitted(x).argmax(1).tolist()
      [0, 0, 1, 1]

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020,
    appendix A.3.
    """
    x, y = checked_examples(x), checked_labels(y, classes)
    penalties = [float(p) for p in np.ravel(np.asarray(penalty))]
    if not penalties or not all(p > 0 and np.isfinite(p) for p in penalties):
        raise ValueError(f"penalty={penalty}: each penalty is positive and finite")
    if (len(penalties) > 1) != (validation is not None):
        raise ValueError(f"{len(penalties)} penalties, validation={'given' if validation else None}: give both or none")
    check_lengths(x, y)
    s = checked_weights(weights, len(x))
    held = None
    if validation is not None:
        held = checked_examples(validation[0]), checked_labels(validation[1], classes)
        check_lengths(*held)
    best: tuple[float, Any] = (-1.0, None)
    with jax.enable_x64(True):  # in float32 the logits would be off by percents for a small λ
        wide, rows = jnp.asarray(np.asarray(x), jnp.float64), jnp.asarray(np.asarray(y))
        w, each = jnp.zeros((x.shape[1] + 1, classes), jnp.float64), jnp.asarray(s)
        for p in sorted(penalties, reverse=True):
            enough = max(TOLERANCE * p / float(s.sum()), FLOOR)
            w, slope = minimise(w, wide, rows, each, p, enough, max_steps)
            if not float(slope) <= 10 * enough:
                warnings.warn(
                    f"logistic regression at penalty={p} stopped at a gradient of {float(slope):.1e}, not {enough:.1e}"
                    ": standardise the features, or give more max_steps",
                    RuntimeWarning,
                    stacklevel=2,
                )
            right = 0.0
            if held is not None:
                logits = np.asarray(held[0], np.float64) @ np.asarray(w[:-1]) + np.asarray(w[-1])
                right = float((logits.argmax(1) == np.asarray(held[1])).mean())
            if right > best[0]:
                best = (right, Linear(np.asarray(w[:-1]), np.asarray(w[-1]), p))
    fitted = best[1]
    return Linear(jnp.asarray(fitted.kernel, x.dtype), jnp.asarray(fitted.bias, x.dtype), fitted.penalty)


@partial(jax.jit, static_argnums=6)
def minimise(
    w: Array, x: Array, y: Array, weights: Array, penalty: Any, enough: Any, max_steps: int, free: Any = 1.0
) -> tuple[Array, Array]:
    """Minimises `(Σ_i s_i CE(x_i W + b, y_i) + λ/2 ‖W‖²) / Σ_i s_i` by L-BFGS; also returns the largest slope there.

    Args:
      w: the start, W stacked above b, [width + 1, classes].
      x: features.
      y: labels.
      weights: s of each example; an example with weight 0 has no effect.
      penalty: λ.
      enough: the largest slope at which it stops.
      max_steps: the largest number of steps.
      free: 1; or 0 for no b, whose row of w then stays as it is.
    """
    total = weights.sum()

    def objective(w: Array) -> Array:
        each = optax.softmax_cross_entropy_with_integer_labels(x @ w[:-1] + free * w[-1:], y)
        return ((weights * each).sum() + penalty / 2 * (w[:-1] ** 2).sum()) / total

    solver, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(objective)

    def step(carry: Any) -> Any:
        w, state, _, _, i = carry
        value, g = value_and_grad(w, state=state)
        updates, state = solver.update(g, state, w, value=value, grad=g, value_fn=objective)
        moved: Any = updates
        slope = jnp.abs(optax.tree_utils.tree_get(state, "grad")).max()
        return w + moved, state, slope, jnp.abs(moved).max(), i + 1

    def goes_on(carry: Any) -> Array:  # an update of 0 means that float64 allows no progress
        return (carry[2] > enough) & (carry[3] > 0) & (carry[4] < max_steps)

    start = (w, solver.init(w), jnp.array(jnp.inf, w.dtype), jnp.array(jnp.inf, w.dtype), 0)
    w = jax.lax.while_loop(goes_on, step, start)[0]
    return w, jnp.abs(jax.grad(objective)(w)).max()


def ridge(
    x: Float[ArrayLike, "examples width"], y: Float[ArrayLike, "examples outputs"], penalty: float = 1.0
) -> Linear:
    """Minimises `‖x W + b − y‖² + λ‖W‖²` in closed form; the bias is not penalised.

    It is solved in the smaller of the two dimensions, `(XᵀX + λI)⁻¹XᵀY = Xᵀ(XXᵀ + λI)⁻¹Y` on centred data. For a
    classifier, pass one row per example as y, with 1 for its class and −1 for the others.

    Args:
      x: features.
      y: targets.
      penalty: λ > 0.

    Raises:
      ValueError: for a penalty that is not positive, features or targets that are not finite, or lengths that differ.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import ridge
      >>> fitted = ridge(np.array([[0.0], [2.0]], np.float32), np.array([[0.0], [2.0]], np.float32), 2.0)
      >>> fitted.kernel.tolist(), fitted.bias.tolist()
      ([[0.5]], [0.5])

    Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, 1970.
    """
    x, y = checked_examples(x), checked_examples(y, "targets")
    check_lengths(x, y)
    if not (penalty > 0 and np.isfinite(penalty)):
        raise ValueError(f"penalty={penalty}: it is positive and finite")
    middle, target = x.mean(0), y.mean(0)
    a, b = x - middle[None], y - target[None]
    tall = len(x) >= x.shape[1]
    gram = (a.T @ a if tall else a @ a.T) + penalty * jnp.eye(min(x.shape), dtype=x.dtype)
    solved = jax.scipy.linalg.solve(gram, a.T @ b if tall else b, assume_a="pos")
    kernel = solved if tall else a.T @ solved
    return Linear(kernel, target - middle @ kernel, float(penalty))


def checked_examples(x: Any, what: str = "features") -> Array:
    """Returns the rows in at least float32.

    Raises:
      ValueError: for no rows, another number of axes, or NaN or infinity.
    """
    x = jnp.asarray(x)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"{what} have the shape {x.shape}; give at least one row, [examples, width]")
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if not bool(jnp.isfinite(x).all()):
        raise ValueError(f"{what} are not finite in {int((~jnp.isfinite(x)).any(1).sum())} of {len(x)} rows")
    return x


def checked_labels(y: Any, classes: int) -> Array:
    """Returns the labels as an array.

    Raises:
      ValueError: for labels that are not integers, [examples], or lie outside [0, classes).
    """
    y = jnp.asarray(y)
    if y.ndim != 1 or jnp.issubdtype(y.dtype, jnp.inexact):
        raise ValueError(f"labels of shape {y.shape} and dtype {y.dtype}: give integers, [examples]")
    if classes < 1:
        raise ValueError(f"classes={classes}: it is at least 1")
    if y.size and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise ValueError(f"labels lie in [{int(y.min())}, {int(y.max())}], with classes={classes}; give [0, classes)")
    return y


def checked_weights(given: Any, examples: int) -> np.ndarray:
    """Returns the weights of examples; ones for None.

    Raises:
      ValueError: for another number of them, weights that are negative or not finite, or zeros alone.
    """
    s = np.ones(examples) if given is None else np.asarray(given, np.float64)
    if s.shape != (examples,):
        raise ValueError(f"weights of shape {s.shape}: give one for each of {examples} examples")
    if not (np.isfinite(s).all() and (s >= 0).all() and s.any()):
        raise ValueError(f"weights lie in [{s.min()}, {s.max()}]: they are finite, not negative, and not all 0")
    return s


def check_lengths(x: Array, y: Array) -> None:
    """Raises if features and labels differ in their number of rows.

    Raises:
      ValueError: naming both numbers.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} rows of features and {len(y)} of labels; they must be as many")

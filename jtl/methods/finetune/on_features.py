"""Classifiers on features that a frozen backbone gave: logistic regression, ridge, neighbours and k-means."""

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
"""How far from the minimum an entry of W may be: by strong convexity, at most about `|gradient| / λ` of the sum."""
FLOOR = 1e-10
"""The gradient of the mean objective that float64 reaches whatever the penalty."""


class Linear(NamedTuple):
    """A linear map of features, `x @ kernel + bias`.

    Attributes:
      kernel: [width, outputs].
      bias: [outputs].
      penalty: with which it was fitted.
    """

    kernel: Any
    bias: Any
    penalty: float

    def __call__(self, x: Float[ArrayLike, "batch width"]) -> Array:
        """Logits or predictions, [batch, outputs]."""
        return jnp.asarray(x) @ self.kernel + self.bias[None]


class Clusters(NamedTuple):
    """What k-means found.

    Attributes:
      centres: [k, width].
      labels: [examples], the nearest centre of each example.
      inertia: the sum of squared distances to it.
    """

    centres: Any
    labels: Any
    inertia: float


def logistic_regression(
    x: Float[ArrayLike, "examples width"],
    y: Int[ArrayLike, "examples"],
    penalty: float | Sequence[float] = 1.0,
    *,
    classes: int,
    validation: tuple[Any, Any] | None = None,
    max_steps: int = 1000,
) -> Linear:
    """Minimises `Σ_i CE(x_i W + b, y_i) + λ/2 ‖W‖²` by L-BFGS; the bias is not penalised.

    λ is the inverse of scikit-learn's C. Of several penalties, the one of the highest accuracy on the validation data
    is taken, and of equal ones the largest; each fit starts at the result of the last one. It is fitted in float64,
    whatever the features are, and the result is of their type.

    Args:
      x: features.
      y: labels in [0, classes).
      penalty: λ > 0, or several to choose from.
      classes: how many.
      validation: features and labels to choose on; needed exactly where there are several penalties.
      max_steps: of L-BFGS for each penalty. Where they do not suffice, a RuntimeWarning says so.

    Returns:
      The map from features to logits, with the penalty that was chosen.

    Raises:
      ValueError: for labels or penalties out of range, features that are not finite, no examples, and several penalties
        without validation data or the other way round.

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
    x, y = _examples(x), _labels(y, classes)
    penalties = [float(p) for p in np.ravel(np.asarray(penalty))]
    if not penalties or not all(p > 0 and np.isfinite(p) for p in penalties):
        raise ValueError(f"penalty={penalty}: each penalty is positive and finite")
    if (len(penalties) > 1) != (validation is not None):
        raise ValueError(f"{len(penalties)} penalties, validation={'given' if validation else None}: give both or none")
    _same_length(x, y)
    held = None
    if validation is not None:
        held = _examples(validation[0]), _labels(validation[1], classes)
        _same_length(*held)
    best: tuple[float, Any] = (-1.0, None)
    with jax.enable_x64(True):  # in float32 the logits are off by percents where λ is small against the features
        wide, rows = jnp.asarray(np.asarray(x), jnp.float64), jnp.asarray(np.asarray(y))
        w, ones = jnp.zeros((x.shape[1] + 1, classes), jnp.float64), jnp.ones(len(x), jnp.float64)
        for p in sorted(penalties, reverse=True):
            enough = max(TOLERANCE * p / len(x), FLOOR)
            w, slope = minimise(w, wide, rows, ones, p, enough, max_steps)
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
    w: Array, x: Array, y: Array, weights: Array, penalty: Any, enough: Any, max_steps: int
) -> tuple[Array, Array]:
    """Minimises `(Σ_i s_i CE(x_i W + b, y_i) + λ/2 ‖W‖²) / Σ_i s_i` by L-BFGS, and gives its largest slope there too.

    Args:
      w: where it starts, W above b, [width + 1, classes].
      x: features.
      y: labels.
      weights: s of each example; one of 0 is as if it were not there.
      penalty: λ.
      enough: the slope at which it stops.
      max_steps: after which it stops too.
    """
    total = weights.sum()

    def objective(w: Array) -> Array:
        each = optax.softmax_cross_entropy_with_integer_labels(x @ w[:-1] + w[-1:], y)
        return ((weights * each).sum() + penalty / 2 * (w[:-1] ** 2).sum()) / total

    solver, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(objective)

    def step(carry: Any) -> Any:
        w, state, _, _, i = carry
        value, g = value_and_grad(w, state=state)
        updates, state = solver.update(g, state, w, value=value, grad=g, value_fn=objective)
        moved: Any = updates
        slope = jnp.abs(optax.tree_utils.tree_get(state, "grad")).max()
        return w + moved, state, slope, jnp.abs(moved).max(), i + 1

    def goes_on(carry: Any) -> Array:  # an update of 0 is where float64 ends
        return (carry[2] > enough) & (carry[3] > 0) & (carry[4] < max_steps)

    start = (w, solver.init(w), jnp.array(jnp.inf, w.dtype), jnp.array(jnp.inf, w.dtype), 0)
    w = jax.lax.while_loop(goes_on, step, start)[0]
    return w, jnp.abs(jax.grad(objective)(w)).max()


def ridge(
    x: Float[ArrayLike, "examples width"], y: Float[ArrayLike, "examples outputs"], penalty: float = 1.0
) -> Linear:
    """Minimises `‖x W + b − y‖² + λ‖W‖²` in closed form; the bias is not penalised.

    Solved in the smaller of the two dimensions, `(XᵀX + λI)⁻¹XᵀY = Xᵀ(XXᵀ + λI)⁻¹Y` on centred data. For a classifier,
    give y as one-hot rows, 1 and −1.

    Args:
      x: features.
      y: targets.
      penalty: λ > 0.

    Raises:
      ValueError: for a penalty that is not positive, features or targets that are not finite, and other lengths.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import ridge
      >>> fitted = ridge(np.array([[0.0], [2.0]], np.float32), np.array([[0.0], [2.0]], np.float32), 2.0)
      >>> fitted.kernel.tolist(), fitted.bias.tolist()
      ([[0.5]], [0.5])

    Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, 1970.
    """
    x, y = _examples(x), _examples(y, "targets")
    _same_length(x, y)
    if not (penalty > 0 and np.isfinite(penalty)):
        raise ValueError(f"penalty={penalty}: it is positive and finite")
    middle, target = x.mean(0), y.mean(0)
    a, b = x - middle[None], y - target[None]
    tall = len(x) >= x.shape[1]
    gram = (a.T @ a if tall else a @ a.T) + penalty * jnp.eye(min(x.shape), dtype=x.dtype)
    solved = jax.scipy.linalg.solve(gram, a.T @ b if tall else b, assume_a="pos")
    kernel = solved if tall else a.T @ solved
    return Linear(kernel, target - middle @ kernel, float(penalty))


def neighbours(
    x: Float[ArrayLike, "examples width"],
    y: Int[ArrayLike, "examples"],
    query: Float[ArrayLike, "queries query_width"],
    k: int,
    *,
    classes: int,
    chunk: int = 1024,
) -> Array:
    """The share of each class among the k nearest examples of every query, `p_c = Σ_{i in N_k} 1[y_i = c] / k`.

    Nearest is by Euclidean distance.

    Normalise features to length 1 first, and the order is that of cosine similarity.

    Args:
      x: features of the examples.
      y: their labels in [0, classes).
      query: features.
      k: how many neighbours, at most the number of examples.
      classes: how many.
      chunk: how many queries at once; the result does not depend on it.

    Returns:
      [queries, classes], rows that sum to 1.

    Raises:
      ValueError: for k or labels out of range, features that are not finite, and other lengths or widths.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import neighbours
      >>> x = np.array([[0.0], [1.0], [5.0]], np.float32)
      >>> neighbours(x, np.array([0, 1, 1]), np.array([[0.1]], np.float32), 2, classes=2).tolist()
      [[0.5, 0.5]]

    Cover and Hart, Nearest Neighbor Pattern Classification, 1967.
    """
    x, y, query = _examples(x), _labels(y, classes), _examples(query, "query")
    _same_length(x, y)
    if not 1 <= k <= len(x):
        raise ValueError(f"k={k}: it is at least 1 and at most the number of examples, {len(x)}")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: it is at least 1")
    if query.shape[1] != x.shape[1]:
        raise ValueError(f"query has width {query.shape[1]}, the examples {x.shape[1]}; they must be the same")
    parts = [_votes(x, y, query[i : i + chunk], k, classes) for i in range(0, len(query), chunk)]
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnums=(3, 4))
def _votes(x: Array, y: Array, query: Array, k: int, classes: int) -> Array:
    nearest = jax.lax.top_k(-_distances(query, x), k)[1]
    return jax.nn.one_hot(y[nearest], classes).mean(1)


def k_means(
    x: Float[ArrayLike, "examples width"], start: Float[ArrayLike, "k start_width"], max_steps: int = 300
) -> Clusters:
    """Lloyd's iterations from given centres until no label changes; `Σ_i min_j ‖x_i − c_j‖²` never rises.

    A centre that loses all its examples stays where it is.

    Args:
      x: features.
      start: the first centres, as k of the examples, or the class means of a source for labels of a target.
      max_steps: of the iterations.

    Raises:
      ValueError: for features or centres that are not finite, or of another width; for max_steps below 1.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.finetune import k_means
      >>> found = k_means(np.array([[0.0], [1.0], [9.0]], np.float32), np.array([[0.0], [5.0]], np.float32))
      >>> found.centres.tolist(), found.labels.tolist(), float(found.inertia)
      ([[0.5], [9.0]], [0, 0, 1], 0.5)

    Lloyd, Least Squares Quantization in PCM, 1982.
    """
    x, start = _examples(x), _examples(start, "start")
    if start.shape[1] != x.shape[1]:
        raise ValueError(f"start has width {start.shape[1]}, the examples {x.shape[1]}; they must be the same")
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps}: it is at least 1")
    centres, labels, inertia = _lloyd(x, start.astype(x.dtype), max_steps)
    return Clusters(centres, labels, float(inertia))


@partial(jax.jit, static_argnums=2)
def _lloyd(x: Array, start: Array, max_steps: int) -> tuple[Array, Array, Array]:
    def nearest(centres: Array) -> Array:
        return _distances(x, centres).argmin(1)

    def step(carry: Any) -> Any:
        centres, labels, _, i = carry
        of = jax.nn.one_hot(labels, len(start), dtype=x.dtype)
        counts = of.sum(0)[:, None]
        centres = jnp.where(counts > 0, (of.T @ x) / jnp.maximum(counts, 1), centres)
        found = nearest(centres)
        return centres, found, (found != labels).any(), i + 1

    first = (start, nearest(start), jnp.array(True), 0)
    centres, labels, _, _ = jax.lax.while_loop(lambda c: c[2] & (c[3] < max_steps), step, first)
    return centres, labels, ((x - centres[labels]) ** 2).sum()


def _distances(a: Array, b: Array) -> Array:
    """Squared distances without the common part ‖a‖² of a row, around the mean of b because float32 cancels."""
    middle = b.mean(0)[None]
    a, b = a - middle, b - middle
    return (b**2).sum(1)[None] - 2 * jnp.matmul(a, b.T, precision="highest")


def _examples(x: Any, what: str = "features") -> Array:
    x = jnp.asarray(x)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"{what} have the shape {x.shape}; give at least one row, [examples, width]")
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if not bool(jnp.isfinite(x).all()):
        raise ValueError(f"{what} are not finite in {int((~jnp.isfinite(x)).any(1).sum())} of {len(x)} rows")
    return x


def _labels(y: Any, classes: int) -> Array:
    y = jnp.asarray(y)
    if classes < 1:
        raise ValueError(f"classes={classes}: it is at least 1")
    if y.size and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise ValueError(f"labels lie in [{int(y.min())}, {int(y.max())}], with classes={classes}; give [0, classes)")
    return y


def _same_length(x: Array, y: Array) -> None:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} rows of features and {len(y)} of labels; they must be as many")

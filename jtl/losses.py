"""Losses, with one value per example; the objective averages them (`jtl.metrics.accumulate.mean`).

Everything is computed in float32 (float64 for float64 inputs), whatever dtype the network computed in.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Integer, Num

ROUNDING = 1e-3
"""How far a probability may lie outside [0, 1], because mixed labels are rounded in float32."""


def cross_entropy(
    logits: Float[ArrayLike, "*batch classes"],
    y: Integer[ArrayLike, "*batch"] | Float[ArrayLike, "*batch classes"],
    *,
    smoothing: float = 0.0,
    class_weights: Float[ArrayLike, "classes"] | None = None,
) -> Float[Array, "*batch"]:
    """Softmax cross-entropy, `−Σ_c w_c ((1−s) y_c + s/C) log p_c`.

    Weights and smoothing have the same meaning as in `torch.nn.functional.cross_entropy(reduction="none")`. The mean
    over examples therefore divides by their number, whereas torch's weighted mean divides by `Σ_i w_{y_i}`.

    Args:
      logits: [..., classes].
      y: integer labels [...], or distributions over classes [..., classes].
      smoothing: s in [0, 1], the share of the target spread evenly over all classes.
      class_weights: w, [classes]; None for all ones.

    Returns:
      One value per example, in nats, [...]; NaN if a label lies outside [0, classes).

    Raises:
      ValueError: for a smoothing outside [0, 1], or labels or weights whose shape does not fit the logits.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> loss = jtl.losses.cross_entropy(jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0]))
      >>> [round(value, 3) for value in loss.tolist()]
      [0.127, 2.127]

    Szegedy et al., Rethinking the Inception Architecture, 2015, arXiv 1512.00567 (smoothing).
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing={smoothing}: the share that is spread over the classes lies in [0, 1]")
    logits, y = _wide(logits), _labels(y)
    hard = jnp.issubdtype(y.dtype, jnp.integer)
    _check_shape(y, logits.shape[:-1] if hard else logits.shape)
    if hard and not smoothing and class_weights is None:
        return _of_classes(optax.softmax_cross_entropy_with_integer_labels(logits, y), logits, y)
    target = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype) if hard else y.astype(logits.dtype)
    target = (1 - smoothing) * target + smoothing / logits.shape[-1]
    target = target * _weights(class_weights, logits)
    log_p = jax.nn.log_softmax(logits)
    log_p = jnp.where((target == 0) & jnp.isneginf(log_p), 0.0, log_p)  # 0 log 0 = 0, for classes ruled out by −∞
    values = -(target * log_p).sum(-1)
    return _of_classes(values, logits, y) if hard else values


def focal(
    logits: Float[ArrayLike, "*batch classes"],
    y: Integer[ArrayLike, "*batch"],
    *,
    gamma: float = 2.0,
    class_weights: Float[ArrayLike, "classes"] | None = None,
) -> Float[Array, "*batch"]:
    """Softmax focal loss, `−w_y (1 − p_y)^γ log p_y`, which down-weights well-classified examples.

    Args:
      logits: [..., classes].
      y: integer labels [...].
      gamma: γ >= 0; 0 gives cross-entropy.
      class_weights: w (the paper's α), [classes]; None for all ones.

    Returns:
      One value per example, in nats, [...]; NaN if a label lies outside [0, classes).

    Raises:
      ValueError: for a γ that is negative or not finite, or labels or weights whose shape does not fit the logits.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> loss = jtl.losses.focal(jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0]))
      >>> [round(value, 3) for value in loss.tolist()]
      [0.002, 1.65]

    Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv 1708.02002.
    """
    if not 0 <= gamma < np.inf:
        raise ValueError(f"gamma={gamma}: the focusing exponent is at least 0, and finite")
    logits, y = _wide(logits), _labels(y)
    _check_shape(y, logits.shape[:-1])
    some = jnp.clip(y, 0, logits.shape[-1] - 1)  # so that a masked-out label gives no NaN gradient
    log_p = -optax.softmax_cross_entropy_with_integer_labels(logits, some)
    weights = jnp.take(_weights(class_weights, logits).reshape(-1), some)
    # The floor keeps the derivative finite if p_y is 1 and γ < 1.
    miss = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
    return _of_classes(-weights * miss**gamma * log_p, logits, y)


def logit_adjusted(
    logits: Float[ArrayLike, "*batch classes"],
    y: Integer[ArrayLike, "*batch"],
    *,
    counts: Sequence[float] | np.ndarray,
    tau: float = 1.0,
) -> Float[Array, "*batch"]:
    """Cross-entropy of adjusted logits, `−log softmax(z + τ log π)_y`: rare classes get a larger margin.

    Predict with the unadjusted logits: they are then the logits for equally frequent classes.

    Args:
      logits: z, [..., classes].
      y: integer labels [...].
      counts: number of training examples of each class; `π = counts / Σ counts`.
      tau: τ >= 0; 0 gives cross-entropy.

    Returns:
      One value per example, in nats, [...]; NaN if a label lies outside [0, classes).

    Raises:
      ValueError: for a τ that is negative or not finite, counts that are not positive, or not one count per class.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> loss = jtl.losses.logit_adjusted(jnp.zeros((2, 2)), jnp.array([0, 1]), counts=[90, 10])
      >>> [round(value, 3) for value in loss.tolist()]
      [0.105, 2.303]

    Menon et al., Long-tail learning via logit adjustment, 2020, arXiv 2007.07314.
    """
    logits, n = _wide(logits), np.asarray(counts, np.float64)
    if not 0 <= tau < np.inf:
        raise ValueError(f"tau={tau}: the strength of the adjustment is at least 0, and finite")
    if n.shape != logits.shape[-1:] or not ((n > 0) & (n < np.inf)).all():
        raise ValueError(f"counts={n.tolist()}: give one positive number for each of {logits.shape[-1]} classes")
    shift = jnp.asarray(tau * np.log(n / n.sum()), logits.dtype)
    return cross_entropy(logits + shift.reshape((1,) * (logits.ndim - 1) + (-1,)), y)


def class_weights(counts: Sequence[float] | np.ndarray, beta: float | None = None) -> Float[Array, "classes"]:
    """Class weights for `cross_entropy` or `focal`, whose mean over the examples is 1.

    `w_c ∝ 1/n_c`, or, from the effective number of examples, `w_c ∝ (1−β)/(1−β^{n_c})`.

    Args:
      counts: n, the number of training examples of each class, at least 1.
      beta: β in [0, 1), such as .999; 0 gives all ones; None gives 1/n.

    Raises:
      ValueError: for counts below 1, or a β out of range.

    Example:
      >>> import jtl
      >>> [round(w, 3) for w in jtl.losses.class_weights([30, 10]).tolist()]
      [0.667, 2.0]

    Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019, arXiv 1901.05555.
    """
    n = np.asarray(counts, np.float64)
    if n.ndim != 1 or not n.size or not (n >= 1).all():
        raise ValueError(f"counts={n.tolist()}: give a number of at least 1 for each class")
    if beta is not None and not 0 <= beta < 1:
        raise ValueError(f"beta={beta}: it lies in [0, 1)")
    w = 1 / n if beta is None else (1 - beta) / (1 - beta**n)
    return jnp.asarray(w * n.sum() / (w * n).sum(), jnp.float32)


def binary_cross_entropy(
    logits: Float[ArrayLike, "batch *labels"],
    y: Num[ArrayLike, "batch *labels"],
    *,
    positive_weights: Float[ArrayLike, "*labels"] | None = None,
    elementwise: bool = False,
) -> Float[Array, "batch ..."]:
    """Sigmoid cross-entropy for labels that are not mutually exclusive, averaged over the labels.

    `−mean_l [ w_l y_l log σ(z_l) + (1 − y_l) log σ(−z_l) ]`.

    Args:
      logits: z, [batch, labels], or [batch] for one label.
      y: each entry 0, 1 or a probability; the same shape as the logits.
      positive_weights: w, [labels], like torch's `pos_weight`; None for all ones.
      elementwise: return one value per label instead of their mean. Some labels may then be missing,
        `finetune(net, partial(binary_cross_entropy, elementwise=True), ignore=-1)`, or each label may have a weight.

    Returns:
      One value in nats per example, [batch], or per label, [batch, labels]; NaN if a label lies outside [0, 1].

    Raises:
      ValueError: if the shapes differ (also in `mse` and `huber`), or if there is not one weight per label.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> loss = jtl.losses.binary_cross_entropy(jnp.array([[2.0, 0.0]]), jnp.array([[1, 0]]))
      >>> [round(value, 3) for value in loss.tolist()]
      [0.41]
    """
    logits, y = _pair(logits, y)
    if positive_weights is None:
        values = optax.sigmoid_binary_cross_entropy(logits, y)
    else:
        if jnp.shape(positive_weights) != logits.shape[1:]:
            raise ValueError(
                f"positive_weights of shape {jnp.shape(positive_weights)} beside logits of shape {logits.shape}: give"
                f" one for each label, of shape {logits.shape[1:]}"
            )
        w = jnp.broadcast_to(jnp.asarray(positive_weights, logits.dtype)[None], logits.shape)
        values = -w * y * jax.nn.log_sigmoid(logits) - (1 - y) * jax.nn.log_sigmoid(-logits)
    return _per_example(jnp.where((y >= -ROUNDING) & (y <= 1 + ROUNDING), values, jnp.nan), elementwise)


def dice(
    logits: Float[ArrayLike, "batch *positions classes"],
    y: Integer[ArrayLike, "batch *positions"],
    *,
    ignore: int | None = None,
) -> Float[Array, "batch"]:
    """Soft Dice loss for segmentation, `1 − mean_c 2 Σ_i p_ic g_ic / (Σ_i p_ic² + Σ_i g_ic²)`, p = softmax(z).

    g_ic is 1 if pixel i belongs to class c, else 0; the mean is over the classes that occur in the example.

    Args:
      logits: z, [batch, ..., classes], at the resolution of the labels.
      y: integer labels [batch, ...].
      ignore: the label of pixels that do not count. `finetune(ignore=...)` cannot be used instead, because it weights
        one value per pixel, and this loss has one value per example.

    Returns:
      One value in [0, 1] per example, [batch], 0 if no pixel counts; NaN if a label lies outside [0, classes).

    Raises:
      ValueError: for labels whose shape does not fit the logits.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> y = jnp.array([[0, 1, 255]])
      >>> round(float(jtl.losses.dice(jnp.zeros((1, 3, 2)), y, ignore=255)[0]), 4)
      0.3333

    Milletari et al., V-Net, 2016, arXiv 1606.04797.
    """
    logits, y = _wide(logits), _labels(y)
    _check_shape(y, logits.shape[:-1])
    kept = jnp.ones(y.shape, bool) if ignore is None else y != ignore
    true = jax.nn.one_hot(jnp.where(kept, y, -1), logits.shape[-1], dtype=logits.dtype)
    p = jax.nn.softmax(jnp.where(kept[..., None], logits, 0)) * kept[..., None]
    axes = tuple(range(1, y.ndim))
    has = true.sum(axes) > 0
    overlap = 2 * (p * true).sum(axes) / jnp.where(has, (p**2 + true).sum(axes), 1)
    values = jnp.where(has, 1 - overlap, 0).sum(-1) / jnp.maximum(has.sum(-1), 1)
    known = (y >= 0) & (y < logits.shape[-1]) | ~kept
    return jnp.where(known.all(axes), values, jnp.nan)


def mse(
    prediction: Float[ArrayLike, "batch *outputs"], y: Num[ArrayLike, "batch *outputs"], *, elementwise: bool = False
) -> Float[Array, "batch ..."]:
    """Squared error, `mean_o (ŷ_o − y_o)²`, in squared units of y.

    Args:
      prediction: ŷ, [batch, outputs], or [batch] for one output.
      y: targets, of the same shape.
      elementwise: return one value per output, [batch, outputs], instead of their mean.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.losses.mse(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])).tolist()
      [2.0]
    """
    return _per_example(optax.squared_error(*_pair(prediction, y)), elementwise)


def huber(
    prediction: Float[ArrayLike, "batch *outputs"],
    y: Num[ArrayLike, "batch *outputs"],
    *,
    delta: float = 1.0,
    elementwise: bool = False,
) -> Float[Array, "batch ..."]:
    """Huber loss, the mean over outputs of `d²/2` if `d = |ŷ − y| <= δ`, else `δ (d − δ/2)`.

    Args:
      prediction: ŷ, [batch, outputs], or [batch] for one output.
      y: targets, of the same shape.
      delta: δ > 0, in units of y.
      elementwise: return one value per output, [batch, outputs], instead of their mean.

    Raises:
      ValueError: if δ is not positive.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.losses.huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0])).tolist()
      [0.125, 2.5]
    """
    if not delta > 0:
        raise ValueError(f"delta={delta}: the error at which the loss turns linear must be positive")
    return _per_example(optax.huber_loss(*_pair(prediction, y), delta=delta), elementwise)


def _of_classes(values: Array, logits: Array, y: Array) -> Array:
    """NaN for a label that is not a class: otherwise -1 would mean the last class, and one too large none at all."""
    return jnp.where((y >= 0) & (y < logits.shape[-1]), values, jnp.nan)


def _wide(x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _labels(y: ArrayLike) -> Array:
    """Integer labels as int32: with 8-bit labels, a number of classes that 8 bits cannot hold would wrap around."""
    y = jnp.asarray(y)
    return y.astype(jnp.int32) if jnp.issubdtype(y.dtype, jnp.integer) else y


def _pair(prediction: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    prediction, y = _wide(prediction), jnp.asarray(y)
    _check_shape(y, prediction.shape)
    return prediction, y.astype(prediction.dtype)


def _check_shape(y: Array, wanted: tuple[int, ...]) -> None:
    if y.shape != wanted:
        numbers = y.shape == wanted[:-1] and jnp.issubdtype(y.dtype, jnp.floating)
        hint = "; numbers of classes must be integers: give y.astype(int)" if numbers else ""
        raise ValueError(f"labels y of shape {y.shape} and dtype {y.dtype} do not fit: give shape {wanted}{hint}")


def _weights(class_weights: ArrayLike | None, logits: Array) -> Array:
    """Class weights with as many dimensions as the logits, so that JAX never promotes ranks silently."""
    classes = logits.shape[-1]
    w = jnp.ones(classes) if class_weights is None else jnp.asarray(class_weights)
    if w.shape != (classes,):
        raise ValueError(f"class_weights of shape {w.shape}: give one for each of the {classes} classes")
    return w.astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (classes,))


def _per_example(values: Array, elementwise: bool) -> Array:
    return values if elementwise else values.mean(tuple(range(1, values.ndim)))

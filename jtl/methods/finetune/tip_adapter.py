"""Tip-Adapter: a cache of a few labelled features beside a classifier that is made of texts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jtl.checked import each, whole, within
from jtl.heads import Reads, reading
from jtl.losses import cross_entropy
from jtl.methods.finetune.contrastive import unit_rows
from jtl.methods.finetune.on_features import check_lengths, checked_examples, checked_labels, checked_weights
from jtl.model import Model, Variables
from jtl.typing import Key, Output, Params, Stats

EQUAL = 1e-6
"""Accuracies that differ by no more than this count as equal: they are sums of float32 weights."""


class TipSearch(NamedTuple):
    """The chosen α and β, and the results by which they were chosen.

    Attributes:
      alpha: the chosen α.
      beta: the chosen β.
      accuracies: the accuracy on the validation examples, [alphas, betas], in the given order.
      losses: the mean cross-entropy on them, [alphas, betas].
    """

    alpha: float
    beta: float
    accuracies: np.ndarray
    losses: np.ndarray


def tip_adapter(alpha: float, beta: float, *, reads: Reads = "pooled") -> Model:
    """The head of Tip-Adapter: logits `f W + b + α exp(−β (1 − u(f) Kᵀ)) V`, `u(f) = f / ‖f‖`.

    W and b are a linear classifier of the same features, such as the embeddings of the classes' texts times the scale.
    K [examples, width] are features of the support examples, V [examples, classes] their one-hot labels; `tip_cache`
    makes both. Without training this is Tip-Adapter. Tip-Adapter-F trains K alone, from there on without keeping its
    rows at length 1: `make_step(..., trainable=jtl.select("head/keys"))`. A support example finds itself in the cache,
    so train K on augmented examples.

    Args:
      alpha: α ≥ 0, the weight of the cache; 0 is the classifier without it.
      beta: β ≥ 0; with a larger one, only closer examples of the cache count.
      reads: which features it reads.

    Returns:
      A head whose parameters are `out/kernel` [width, classes], `out/bias` [classes], if there is one, `keys` and
      `values`. It initialises none of them. α and β are options, so choose them by `tip_search`.

    Raises:
      ValueError: for a number that is negative or not finite; when called, without a cache, or for features of another
        width.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> x, head = jnp.eye(2), {"out": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}
      >>> net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.finetuning.tip_adapter(2.0, 5.0))
      >>> given = jtl.Variables({"backbone": {}, "head": jtl.finetuning.tip_cache(head, x, jnp.array([2, 0]))}, {})
      >>> jtl.predictor(net)(given, x).round(2).tolist()
      [[0.009999999776482582, 0.0, 2.0], [2.0, 0.0, 0.009999999776482582]]

    Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, 2022, arXiv 2207.09519; its
    first version is arXiv 2111.03930.
    """
    within("[0, inf)", alpha=alpha, beta=beta)

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        del train, key
        params, x = variables.params, jnp.asarray(x)
        _check(params, x)
        return _linear(params, x) + alpha * _cached(params, _affinity(params, x), beta), variables.stats

    def init(key: Key, x: Any) -> Variables:
        del key, x
        return Variables({}, {})

    return reading(Model(init, apply), reads)


def tip_cache(
    head: Params,
    x: Float[ArrayLike, "examples width"],
    y: Int[ArrayLike, "labels"],
    *,
    weights: Float[ArrayLike, "examples"] | None = None,
) -> Params:
    """The parameters of the head `tip_adapter`: those of a linear head, and the cache `K = u(x)`, `V = one_hot(y)`.

    To cache several augmented views of an example as one key, as the paper does, give the mean of their features.

    Args:
      head: the parameters of a linear head on the same features, `{"out": {"kernel", "bias"}}` with or without a bias,
        such as `jtl.part(classifier.variables, "head").params` of `jtl.pretrained.zero_shot.zero_shot`.
      x: features of the support examples, of any length, as the head reads them.
      y: their labels in [0, classes).
      weights: factors of the rows of V, one per example, not negative; None for 1. An example of weight 0 has no
        effect.

    Returns:
      `{"out": ..., "keys": K, "values": V}`, K and V in at least float32.

    Raises:
      ValueError: for a head that is not linear, labels or weights out of range, features that are not finite, or
        lengths or widths that differ.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> head = {"out": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}
      >>> made = jtl.finetuning.tip_cache(head, jnp.array([[0.0, 2.0], [3.0, 0.0]]), jnp.array([2, 0]))
      >>> made["keys"].tolist(), made["values"].tolist()
      ([[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

    Zhang et al., Tip-Adapter, 2022, arXiv 2207.09519.
    """
    if not isinstance(head, Mapping) or set(head) != {"out"} or jnp.ndim(head["out"].get("kernel")) != 2:
        given = sorted(head) if isinstance(head, Mapping) else type(head).__name__
        raise ValueError(f"a head of {given}: give the parameters of a linear one, {{'out': {{'kernel', ...}}}}")
    kernel = head["out"]["kernel"]
    x, y = checked_examples(x), checked_labels(y, kernel.shape[1])
    check_lengths(x, y)
    s = jnp.asarray(checked_weights(weights, len(x)), x.dtype)
    found = {"out": head["out"], "keys": unit_rows(x), "values": s[:, None] * jax.nn.one_hot(y, kernel.shape[1])}
    _check(found, x)
    return found


def tip_search(
    params: Params,
    x: Float[ArrayLike, "examples width"],
    y: Int[ArrayLike, "labels"],
    alphas: Sequence[float],
    betas: Sequence[float],
    *,
    weights: Float[ArrayLike, "examples"] | None = None,
    chunk: int = 1024,
) -> TipSearch:
    """Chooses α and β of `tip_adapter`: those of the highest accuracy on validation examples.

    Of equally accurate pairs it takes the one of the lowest cross-entropy, because few examples have few accuracies; of
    equal ones the smallest α, then the smallest β. It takes no pair whose cross-entropy is not finite. For
    Tip-Adapter-F, search again with the trained parameters.

    Args:
      params: the parameters of the head, of `tip_cache` or after training.
      x: features of the validation examples, which are neither in the cache, because each would find itself there, nor
        of the test data, whose accuracy would then be too high.
      y: their labels in [0, classes).
      alphas: the values of α to try.
      betas: the values of β to try.
      weights: weights of the validation examples, not negative; None for 1.
      chunk: number of examples to process at once; the result does not depend on it.

    Raises:
      ValueError: for no α or no β, one that is negative or not finite, parameters without a cache, labels or weights
        out of range, features that are not finite, lengths or widths that differ, or no pair with a finite
        cross-entropy.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> head = {"out": {"kernel": jnp.array([[0.0, 1.0], [0.0, 0.0]]), "bias": jnp.zeros(2)}}
      >>> params = jtl.finetuning.tip_cache(head, jnp.eye(2), jnp.array([0, 1]))
      >>> held = jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 1])
      >>> found = jtl.finetuning.tip_search(params, *held, alphas=(0.0, 1.0, 2.0), betas=(1.0, 5.0))
      >>> found.alpha, found.beta, found.accuracies.tolist()
      (2.0, 5.0, [[0.5, 0.5], [0.5, 1.0], [1.0, 1.0]])

    Zhang et al., Tip-Adapter, 2022, arXiv 2207.09519.
    """
    alphas, betas = [float(a) for a in alphas], [float(b) for b in betas]
    if not alphas or not betas:
        raise ValueError(f"alphas={alphas}, betas={betas}: give at least one of each")
    within("[0, inf)", **each("alphas", alphas), **each("betas", betas))
    whole(1, chunk=chunk)
    x = checked_examples(x)
    _check(params, x)
    y = checked_labels(y, params["values"].shape[1])
    check_lengths(x, y)
    s, kind = checked_weights(weights, len(x)), x.dtype
    sums = np.zeros((2, len(alphas), len(betas)))
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        rows = x[part], y[part], jnp.asarray(s[part], kind)
        sums += np.asarray(_sums(params, *rows, jnp.asarray(alphas, kind), jnp.asarray(betas, kind)), np.float64)
    accuracies, losses = sums / s.sum()
    finite = np.isfinite(losses)
    if not finite.any():
        raise ValueError("no α and β give a finite cross-entropy: the head's parameters are not finite, or too large")
    order = sorted(np.ndindex(*losses.shape), key=lambda at: (alphas[at[0]], betas[at[1]]))
    least = accuracies[finite].max() - EQUAL
    best = min((at for at in order if finite[at] and accuracies[at] >= least), key=lambda at: losses[at])
    return TipSearch(alphas[best[0]], betas[best[1]], accuracies, losses)


@jax.jit
def _sums(params: Params, x: Array, y: Array, s: Array, alphas: Array, betas: Array) -> Array:
    """The weighted numbers of right answers and sums of cross-entropies, [2, alphas, betas]."""
    z, affinity = _linear(params, x), _affinity(params, x)

    def at_beta(beta: Array) -> Array:
        cached = _cached(params, affinity, beta)

        def at_alpha(alpha: Array) -> Array:
            logits = z + alpha * cached
            return jnp.stack([s @ (logits.argmax(-1) == y), s @ cross_entropy(logits, y)])

        return jax.lax.map(at_alpha, alphas)

    return jax.lax.map(at_beta, betas).transpose(2, 1, 0)


def _linear(params: Params, x: Array) -> Array:
    z = x @ params["out"]["kernel"]
    return z + params["out"]["bias"][None] if "bias" in params["out"] else z


def _affinity(params: Params, x: Array) -> Array:
    """`u(f) Kᵀ` in full precision, because β multiplies its error."""
    return jnp.matmul(unit_rows(x), params["keys"].T, precision="highest")


def _cached(params: Params, affinity: Array, beta: Any) -> Array:
    return jnp.exp(-beta * (1 - affinity)) @ params["values"]


def _check(params: Params, x: Array) -> None:
    missing = sorted({"keys", "out", "values"} - set(params))
    if missing:
        raise ValueError(f"the head of Tip-Adapter has no {missing}: give it the parameters of tip_cache")
    widths = {"keys": params["keys"].shape[1], "out/kernel": params["out"]["kernel"].shape[0]}
    if any(width != x.shape[-1] for width in widths.values()):
        raise ValueError(f"features of width {x.shape[-1]}, and a head of {widths}: they must be the same")

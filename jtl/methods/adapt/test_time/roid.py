"""ROID: a certainty- and diversity-weighted likelihood ratio, with consistency and prior correction."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import rng
from jtl.methods.adapt.test_time.predictions import classes_of, kept, logits_of
from jtl.metrics.accumulate import Mean, mean
from jtl.metrics.certainty import entropy, mean_prediction
from jtl.model import Model, Variables
from jtl.objective import NONE, Objective, complete
from jtl.typing import Aux, Batch, Key, Params, Stats

NAME = "roid"


def roid(
    net: Model,
    augment: Callable[[Key, Any], Any] | None,
    *,
    temperature: float = 1 / 3,
    momentum: float = 0.9,
) -> Objective:
    """The objective `mean_i w_i (L_SLR(p_i) + L_SCE(p_i, p̃_i))`, p̃_i the prediction of an augmented view.

    `L_SCE = −½ Σ_c (p_c log p̃_c + p̃_c log p_c)`; L_SLR is `soft_likelihood_ratio`. The weights, which have no
    gradient, are `w_i = exp(d_i s_i / T)`: d_i is `1 − cos(p_i, m)`, with m the moving average of mean predictions, and
    s_i is `−H_i`, both scaled to [0, 1] over the batch. A row whose d_i is below the batch's mean has weight 0. The
    output is `log p_i + log π`, with π the smoothed mean prediction of the batch (prior correction). The authors' code
    multiplies the logits by π instead.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      augment: `augment(key, x) -> x`, such as `jtl.data.augment.flip()`; None leaves the consistency term out.
      temperature: T.
      momentum: momentum of m, which starts uniform.

    Returns:
      A test-time objective with the metrics `selected`, the share of rows with a positive weight, and `entropy`; its
      stream should have `after=ensemble(0.99)`.

    Raises:
      ValueError: for a temperature that is not positive, or a momentum outside [0, 1].

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> objective = jtl.test_time.roid(net, jtl.data.augment.flip())
      >>> adapting = jtl.test_time.stream(objective, optax.adam(1e-3), after=jtl.test_time.ensemble(0.99))

    Marsden et al., Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior Correction,
    2024, arXiv 2306.00650.
    """
    if not 0 < temperature < jnp.inf:
        raise ValueError(f"temperature={temperature}: it is positive")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum={momentum}: it lies in [0, 1]")

    def run(params: Params, stats: Stats, batch: Batch, key: Key, step: Any) -> tuple[dict, Aux]:
        del step
        logits = logits_of(net, params, stats, batch, key)
        rows = kept(batch, len(logits))
        clean = jnp.where(rows[:, None], logits, 0).astype(jnp.float32)
        average = stats[NAME]
        weights = roid_weights(jax.lax.stop_gradient(clean), average, rows, temperature)
        terms = {"likelihood_ratio": mean(weights * soft_likelihood_ratio(clean), rows)}
        if augment is not None:
            other = logits_of(net, params, stats, {**batch, "x": augment(rng.stream(key, "augment"), batch["x"])}, key)
            other = jnp.where(rows[:, None], other, 0).astype(jnp.float32)
            terms["consistency"] = mean(weights * _symmetric(clean, other), rows)
        prior = jax.lax.stop_gradient(mean_prediction(clean, rows))
        new = momentum * average + (1 - momentum) * prior
        count = rows.sum()
        smooth = jnp.maximum(1 / jnp.maximum(count, 1), 1 / logits.shape[1]) / jnp.maximum(prior.max(), 1e-12)
        smoothed = (prior + smooth) / (1 + smooth * logits.shape[1])
        corrected = jax.nn.log_softmax(logits.astype(jnp.float32)) + jnp.log(smoothed)[None]
        used = Mean(jnp.sum(weights > 0, dtype=jnp.float32), count.astype(jnp.float32))
        stats = {**stats, NAME: jnp.where(count > 0, new, average)}
        found = {"selected": used, "entropy": mean(entropy(clean), rows)}
        return terms, Aux(stats, found, {"output": corrected})

    def init(key: Key, batch: Batch, given: Variables = NONE) -> Variables:
        made = complete(net.init, key, batch["x"], given)
        classes = classes_of(net, made, batch)
        return made._replace(stats={NAME: jnp.full(classes, 1 / classes), **made.stats})

    return Objective(run, init)


def soft_likelihood_ratio(logits: Float[Array, "batch classes"], clip: float = 0.99) -> Float[Array, " batch"]:
    """`−Σ_c p_c log(p_c / (1 − p_c) + 10⁻⁵)` for each row, with p clipped to at most `clip`.

    Unlike the gradient of the entropy, its gradient does not vanish if a prediction is certain.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> round(float(jtl.test_time.soft_likelihood_ratio(jnp.array([[2.0, 0.0]]))[0]), 2)
      -1.52

    Marsden et al., Universal Test-time Adaptation through Weight Ensembling, Diversity Weighting, and Prior Correction,
    2024, arXiv 2306.00650.
    """
    p = jnp.minimum(jax.nn.softmax(logits), clip)
    return -jnp.sum(p * jnp.log(p / (1 - p) + 1e-5), axis=1)


def roid_weights(
    logits: Float[Array, "batch classes"],
    average: Float[Array, " classes"],
    rows: Array,
    temperature: float,
) -> Float[Array, " batch"]:
    """The weights of the rows in `roid`; rows that are False in `rows` have weight 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.test_time.roid import roid_weights
      >>> logits = jnp.array([[4.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
      >>> roid_weights(logits, jnp.array([0.9, 0.1]), jnp.ones(3, bool), 1 / 3).round(2).tolist()
      [0.0, 1.0, 0.0]
    """
    p = jax.nn.softmax(logits)
    lengths = jnp.linalg.norm(p, axis=1) * jnp.linalg.norm(average)
    diversity = _to_unit(1 - p @ average / jnp.maximum(lengths, 1e-12), rows)
    certainty = _to_unit(-entropy(logits), rows)
    middle = jnp.sum(jnp.where(rows, diversity, 0)) / jnp.maximum(rows.sum(), 1)
    return jnp.where(rows & (diversity >= middle), jnp.exp(diversity * certainty / temperature), 0)


def _to_unit(values: Array, rows: Array) -> Array:
    """Values scaled so that the smallest of `rows` is 0 and the largest 1; 0 if all are equal."""
    low, high = jnp.min(values, initial=jnp.inf, where=rows), jnp.max(values, initial=-jnp.inf, where=rows)
    span = jnp.where(high > low, high - low, 1)
    return jnp.where(rows, (values - low) / span, 0)


def _symmetric(a: Array, b: Array) -> Array:
    p, q = jax.nn.softmax(a), jax.nn.softmax(b)
    return -(jnp.sum(p * jax.nn.log_softmax(b), 1) + jnp.sum(q * jax.nn.log_softmax(a), 1)) / 2

"""How certain predictions are: the entropy of each row, of the mean prediction, and their difference."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped


def entropy(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    """The entropy of each row's prediction, `−Σ_c p_c log p_c` in nats, `p = softmax(logits)`.

    Computed in float32 at least; a class whose probability underflows, or whose logit is −∞, adds 0, and its gradient
    is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.metrics.certainty import entropy
      >>> round(float(entropy(jnp.zeros((1, 4)))[0]), 4)
      1.3863
    """
    logp = _log_softmax(logits)
    there = ~jnp.isneginf(logp)  # 0 log 0 = 0
    return -jnp.sum(jnp.where(there, jnp.exp(logp), 0) * jnp.where(there, logp, 0), axis=-1)


def diversity(
    logits: Float[Array, "batch classes"], mask: Shaped[ArrayLike, " batch"] | None = None
) -> Float[Array, ""]:
    """The entropy of the mean prediction, `H(mean_i p_i)` in nats: low if all rows are given one class.

    Args:
      logits: unnormalised.
      mask: rows to count; NaN in other rows has no effect. Without any row the result is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.metrics.certainty import diversity
      >>> round(float(diversity(jnp.array([[9.0, -9.0], [-9.0, 9.0]]))), 4)
      0.6931
    """
    mean = mean_prediction(logits, mask)
    return -jnp.sum(jnp.where(mean > 0, mean * jnp.log(jnp.where(mean > 0, mean, 1.0)), 0.0))


def mean_prediction(
    logits: Float[Array, "batch classes"], mask: Shaped[ArrayLike, " batch"] | None = None
) -> Float[Array, " classes"]:
    """The mean of the rows' probabilities, over the rows that a mask keeps; zeros if it keeps none.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.metrics.certainty import mean_prediction
      >>> mean_prediction(jnp.zeros((3, 2))).tolist()
      [0.5, 0.5]
    """
    if mask is None:
        return jnp.exp(_log_softmax(logits)).mean(0)
    kept = jnp.asarray(mask) > 0
    p = jnp.exp(_log_softmax(jnp.where(kept[:, None], logits, 0)))
    return jnp.sum(jnp.where(kept[:, None], p, 0), axis=0) / jnp.maximum(kept.sum(), 1)


def _log_softmax(logits: Array) -> Array:
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)

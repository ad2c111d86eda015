"""Contrastive losses over the rows of a batch: supervised by labels, or on pairs with in-batch negatives."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jtl import ops


def unit_rows(x: Float[ArrayLike, "rows width"]) -> Float[Array, "rows width"]:
    """Rows scaled to length 1, in at least float32; a row of zeros stays zero, with gradient 0."""
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = (x**2).sum(-1, keepdims=True)
    there = squared > 0
    return jnp.where(there, x * jax.lax.rsqrt(jnp.where(there, squared, 1.0)), 0.0)


def supervised_contrastive(
    z: Float[ArrayLike, "rows width"],
    y: Int[ArrayLike, "labels"],
    mask: Any = None,
    *,
    temperature: float = 0.07,
) -> tuple[Array, Array]:
    """`−mean_{j ∈ P(i)} log exp(z_i·z_j/T) / Σ_{a ≠ i} exp(z_i·z_a/T)`, P(i) the other rows with the label of i.

    z is normalised to length 1 first. Rows that the mask leaves out are in no sum, and their values are 0.

    Args:
      z: embeddings.
      y: labels.
      mask: which rows count; None for all rows.
      temperature: T > 0.

    Returns:
      One value in nats per row, and which rows have a value: those that count and share their label with another row.

    Raises:
      ValueError: for a temperature that is not positive, or if there is not one label per row.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.finetune.contrastive import supervised_contrastive
      >>> values, there = supervised_contrastive(jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 0, 1]))
      >>> there.tolist()
      [True, True, False]

    Khosla et al., Supervised Contrastive Learning, 2020, arXiv 2004.11362.
    """
    z, y = jnp.asarray(z), jnp.asarray(y)
    if not temperature > 0 or y.shape != z.shape[:1]:
        raise ValueError(f"temperature={temperature}, labels {y.shape}, rows {z.shape}: positive, and a label a row")
    kept = ops.kept(mask, len(z))
    z = unit_rows(jnp.where(kept[:, None], z, 0.0))
    others = kept[None] & ~jnp.eye(len(z), dtype=bool)
    positives = others & (y[:, None] == y[None])
    scores = jnp.matmul(z, z.T, precision="highest") / temperature
    return _mean_of_positives(scores, positives, others, kept)


def against_prototypes(
    z: Float[ArrayLike, "rows width"],
    y: Int[ArrayLike, "labels"],
    prototypes: Float[ArrayLike, "classes dim"],
    mask: Any = None,
    *,
    temperature: float = 0.07,
) -> tuple[Array, Array]:
    """`−mean_{j: y_j = c} log exp(w_c·z_j/T) / Σ_a exp(w_c·z_a/T)` for each class c, over the rows of the batch.

    This is the contrastive cross-entropy of Bi-Tuning: a class's vector w_c is the query, and the rows are the keys.
    Neither is normalised here.

    Returns:
      One value in nats per class, and which classes have a value: those that have rows.
    """
    z, y, w = jnp.asarray(z), jnp.asarray(y), jnp.asarray(prototypes)
    if not temperature > 0 or y.shape != z.shape[:1] or w.shape[1:] != z.shape[1:]:
        raise ValueError(
            f"temperature={temperature}, rows {z.shape}, labels {y.shape}, prototypes {w.shape} do not fit"
        )
    kept = ops.kept(mask, len(z))
    z = jnp.where(kept[:, None], z, 0.0)
    wide = jnp.promote_types(z.dtype, jnp.float32)
    scores = jnp.matmul(w.astype(wide), z.astype(wide).T, precision="highest") / temperature
    candidates = jnp.broadcast_to(kept[None], scores.shape)
    positives = candidates & (y[None] == jnp.arange(len(w))[:, None])
    return _mean_of_positives(scores, positives, candidates, jnp.ones(len(w), bool))


def in_batch_negatives(
    anchor: Float[ArrayLike, "pairs width"],
    positive: Float[ArrayLike, "..."],
    mask: Any = None,
    *,
    scale: float = 20.0,
    symmetric: bool = False,
) -> Float[Array, "pairs"]:
    """Multiple negatives ranking, `−log exp(s cos(a_i, p_i)) / Σ_j exp(s cos(a_i, p_j))`, one value per pair.

    The positives of all other pairs are the negatives, so no two pairs of a batch should mean the same.

    Args:
      anchor: embeddings a, such as those of questions.
      positive: embeddings p, such as those of their answers.
      mask: which pairs count; None for all pairs. The others are not negatives either, and their values are 0.
      scale: s > 0, the inverse of a temperature.
      symmetric: average this loss and the same loss with a and p exchanged.

    Raises:
      ValueError: for a scale that is not positive, or shapes that differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.finetune.contrastive import in_batch_negatives
      >>> [round(v, 3) for v in in_batch_negatives(jnp.eye(2), jnp.eye(2), scale=1.0).tolist()]
      [0.313, 0.313]

    Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017, arXiv 1705.00652; Reimers
    and Gurevych, Sentence-BERT, 2019, arXiv 1908.10084.
    """
    a, p = jnp.asarray(anchor), jnp.asarray(positive)
    if not scale > 0 or a.shape != p.shape or a.ndim != 2:
        raise ValueError(f"scale={scale}, anchors {a.shape}, positives {p.shape}: positive, and equal [pairs, width]")
    kept = ops.kept(mask, len(a))
    a, p = (unit_rows(jnp.where(kept[:, None], rows, 0.0)) for rows in (a, p))
    scores = scale * jnp.matmul(a, p.T, precision="highest")
    candidates, same = jnp.broadcast_to(kept[None], scores.shape), jnp.eye(len(a), dtype=bool) & kept[:, None]
    values = _mean_of_positives(scores, same, candidates, kept)[0]
    return (values + _mean_of_positives(scores.T, same, candidates, kept)[0]) / 2 if symmetric else values


def _mean_of_positives(scores: Array, positives: Array, candidates: Array, kept: Array) -> tuple[Array, Array]:
    count = positives.sum(1)
    there = kept & (count > 0)
    some = candidates | ~there[:, None]  # a row without candidates would give log 0
    log_p = scores - jax.nn.logsumexp(jnp.where(some, scores, -jnp.inf), axis=1, keepdims=True)
    values = -jnp.where(positives, log_p, 0.0).sum(1) / jnp.maximum(count, 1)
    return jnp.where(there, values, 0.0), there

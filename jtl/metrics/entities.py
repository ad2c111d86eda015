"""Precision, recall and F1 of whole entities, from the tags of tokens."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Integer

from jtl.metrics.accumulate import Metric
from jtl.metrics.elements import judged, known, spread


class _Spans(NamedTuple):
    """Where entities begin [rows, words], their types, and where they end; types and ends count only at beginnings."""

    begins: Array
    types: Array
    ends: Array


def entity_f1(tags: Sequence[str]) -> Metric:
    """Micro-averaged precision, recall and F1 of entities: one is right if its words and its type are.

    `F1 = 2 TP / (predicted + true)`, 0 if there are no entities. An entity of type t begins at B-t, or at an I-t that
    does not follow a word of t, and extends over the I-t that follow (the conlleval convention, seqeval's default).
    Tokens of weight 0, and tokens whose label is not a tag, are skipped, so that the pieces of a word do not split an
    entity. All three are NaN if a logit of any other token is.

    Args:
      tags: "O", and "B-t" and "I-t" for each type t, in the order of the classes.

    Returns:
      A metric of outputs [batch, tokens, tags] and y [batch, tokens], with the results `precision`, `recall`, `f1`. Its
      sums are `right`, `predicted` and `true`, each by type.

    Raises:
      ValueError: for a tag of another form, or no type; outputs of another number of tags, or labels that are not
        integers.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> metric = jtl.metrics.entity_f1(("O", "B-city", "I-city"))
      >>> y, predicted = jnp.array([[1, 2, 0, 1]]), jnp.array([[1, 2, 0, 0]])
      >>> found = metric.finish(metric.sums(jnp.eye(3)[predicted], y, None))
      >>> {name: round(float(value), 3) for name, value in found.items()}
      {'precision': 1.0, 'recall': 0.5, 'f1': 0.667}

    Tjong Kim Sang and De Meulder, Introduction to the CoNLL-2003 Shared Task, 2003, arXiv cs/0306050.
    """
    names = tuple(tags)
    for tag in names:
        if tag != "O" and tag[:2] not in ("B-", "I-"):
            raise ValueError(f"tag {tag!r}: give 'O', 'B-type' and 'I-type'")
    kinds = sorted({tag[2:] for tag in names if tag != "O"})
    if not kinds:
        raise ValueError(f"tags={names}: none marks an entity; give 'B-type' and 'I-type'")
    types = np.array([-1 if tag == "O" else kinds.index(tag[2:]) for tag in names])
    first = np.array([tag.startswith("B-") for tag in names])

    def sums(outputs: Any, y: Any, weights: Any) -> dict[str, Array]:
        logits, y = judged(outputs, y, len(names))
        kept = (spread(weights, y.shape) > 0) & known(y, len(names))
        order = jnp.argsort(~kept, axis=1, stable=True)  # moves the words that count to the front, in their order
        count = kept.sum(1, keepdims=True)

        def spans(labels: Array) -> _Spans:
            words = jnp.take_along_axis(labels, order, 1)
            there = jnp.arange(y.shape[1])[None] < count
            kind = jnp.where(there, jnp.asarray(types)[jnp.where(there, words, 0)], -1)
            return _spans(kind, jnp.asarray(first)[jnp.where(there, words, 0)] & there)

        nan = (jnp.isnan(logits).any(-1) & kept).any()  # the argmax of such logits is 0
        true, found = spans(y), spans(logits.argmax(-1))
        right = true.begins & found.begins & (true.types == found.types) & (true.ends == found.ends)
        counts = {"right": (right, true), "predicted": (found.begins, found), "true": (true.begins, true)}
        by_type = {name: _by_type(there, of.types, len(kinds)) for name, (there, of) in counts.items()}
        return {name: jnp.where(nan, jnp.nan, count) for name, count in by_type.items()}

    return Metric(sums, _micro)


def _spans(types: Integer[Array, "rows words"], first: Array) -> _Spans:
    before = jnp.pad(types, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    begins = (types >= 0) & (first | (types != before))
    after = jnp.pad(begins | (types < 0), ((0, 0), (0, 1)), constant_values=True)[:, 1:]
    place = jnp.where(after, jnp.arange(types.shape[1])[None], types.shape[1])
    return _Spans(begins, types, lax.cummin(place, axis=1, reverse=True))


def _by_type(there: Array, types: Array, count: int) -> Array:
    hot = (types[..., None] == jnp.arange(count).reshape(1, 1, -1)) & there[..., None]
    return hot.sum((0, 1)).astype(jnp.float32)


def _micro(sums: dict[str, Any]) -> dict[str, Any]:
    right, predicted, true = (sums[name].sum() for name in ("right", "predicted", "true"))

    def ratio(over: Any, under: Any) -> Any:
        return jnp.where(under == 0, 0.0, over / jnp.maximum(under, 1))  # NaN stays

    f1 = ratio(2 * right, predicted + true)
    return {"precision": ratio(right, predicted), "recall": ratio(right, true), "f1": f1}

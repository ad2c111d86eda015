"""A memory of recent, certain rows with about equally many of each class: which rows it keeps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Slots(NamedTuple):
    """What is known of the rows in a memory.

    Args:
      label: int32 [capacity], the class that a row was given; −1 for a slot that is empty.
      uncertainty: float32 [capacity], the entropy of that prediction.
      age: int32 [capacity], the number of rows that have come since, including the row itself.
      place: int32 [capacity], where the row is in the memory's inputs, followed by the batch's.
    """

    label: Array
    uncertainty: Array
    age: Array
    place: Array


def empty(capacity: int) -> Slots:
    """No rows.

    Example:
      >>> from jtl.methods.adapt.test_time.memory_bank import empty
      >>> empty(2).label.tolist()
      [-1, -1]
    """
    zeros = jnp.zeros(capacity, jnp.int32)
    return Slots(zeros - 1, jnp.zeros(capacity, jnp.float32), zeros, jnp.arange(capacity, dtype=jnp.int32))


def remembered(
    slots: Slots,
    labels: Array,
    uncertainties: Array,
    rows: Array,
    classes: int,
    *,
    timeliness: float = 1.0,
    certainty: float = 1.0,
) -> Slots:
    """The slots after each row of a batch, one row after the other; every array is [batch, capacity].

    `score = λ_t / (1 + exp(−age / N)) + λ_u H / ln C`, N the capacity; a new row has age 0. A row of a class with fewer
    than N / C rows takes an empty slot; if there is none, it competes with the rows of the largest classes. A row of
    another class competes with the rows of its own. It replaces the one with the highest score if that is above its own
    score, and is left out otherwise. Then all rows become older by 1.

    Args:
      slots: the slots before the batch.
      labels: int [batch], the predicted classes.
      uncertainties: [batch], the entropies H of the predictions.
      rows: bool [batch]; the others are passed over, and no row becomes older.
      classes: C.
      timeliness: λ_t.
      certainty: λ_u.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.test_time.memory_bank import empty, remembered
      >>> labels, h = jnp.array([0, 0, 0, 1]), jnp.array([0.5, 0.1, 0.6, 0.2])
      >>> remembered(empty(3), labels, h, jnp.ones(4, bool), classes=2).label.tolist()
      [[0, -1, -1], [0, 0, -1], [0, 0, -1], [0, 0, 1]]

    Yuan et al., Robust Test-Time Adaptation in Dynamic Scenarios, 2023, arXiv 2303.13899.
    """
    capacity = len(slots.label)

    def score(age: Any, h: Any) -> Array:
        return timeliness * jax.nn.sigmoid(jnp.asarray(age, jnp.float32) / capacity) + certainty * h / jnp.log(
            jnp.float32(classes)
        )

    def one(slots: Slots, row: tuple[Any, Any, Any, Any]) -> tuple[Slots, Slots]:
        label, h, place, counts = row
        full = slots.label >= 0
        sizes = jnp.sum(slots.label[:, None] == jnp.arange(classes)[None], axis=0)
        few = sizes[label] * classes < capacity
        largest = sizes[jnp.maximum(slots.label, 0)] == sizes.max()
        rivals = full & jnp.where(few, largest, slots.label == label)
        scores = jnp.where(rivals, score(slots.age, slots.uncertainty), -jnp.inf)
        free = few & ~full.all()
        at = jnp.where(free, jnp.argmin(full), jnp.argmax(scores))
        taken = counts & (free | (scores.max() > score(0, h)))
        here = taken & (jnp.arange(capacity) == at)
        label, h, age, place = (jnp.where(here, new, old) for new, old in zip((label, h, 0, place), slots, strict=True))
        new = Slots(label, h, jnp.where(counts & (label >= 0), age + 1, age), place)
        return new, new

    places = capacity + jnp.arange(len(labels), dtype=jnp.int32)
    each = (labels.astype(jnp.int32), uncertainties.astype(jnp.float32), places, rows)
    return jax.lax.scan(one, slots, each)[1]

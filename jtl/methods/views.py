"""What a term of a loss sees of a forward pass: inputs, features and outputs, by the name of the data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array


class View(NamedTuple):
    """One domain's part of a batch, or the whole batch of `finetune`.

    Args:
      features: the backbone's features by name.
      output: the head's output, such as logits [batch, classes].
      x: the input.
      y: labels [batch], or None if the domain has none.
      mask: [batch] bool, or None for all rows.
      rows: the batch's other entries per row, such as `domain`.
    """

    features: dict[str, Any]
    output: Any
    x: Any
    y: Any
    mask: Any
    rows: dict[str, Any]


Views: TypeAlias = dict[str, View]
"""Views by name in the batch: `source`, `target`, and others such as a second source or a strong augmentation."""


def needs(parts: Mapping[str, Any], names: Sequence[str], who: str, kind: str = "view") -> None:
    """Raises if views, or a batch of them, lack a required one.

    Args:
      parts: the views by name.
      names: names of the required views.
      who: what requires them.
      kind: what a view is called in the message.

    Raises:
      ValueError: naming the first missing view, and those there are.
    """
    missing = [name for name in names if name not in parts]
    if missing:
        raise ValueError(f"{who} needs a {kind} {missing[0]!r}; the batch has {sorted(parts)}")


def classes_of_rows(y: Any, who: str, of: str = "source") -> Array:
    """Returns labels as one class per row, int32 [batch], because a number of classes may not fit 8-bit labels.

    Args:
      y: a view's labels.
      who: what requires them, for the message.
      of: the view's name, for the message.

    Raises:
      ValueError: if there are no labels, or other labels, such as those of mixed batches.
    """
    given = None if y is None else jnp.asarray(y)
    if given is None or given.ndim != 1 or not jnp.issubdtype(given.dtype, jnp.integer):
        has = "no labels" if given is None else f"labels of {given.dtype} {given.shape}"
        raise ValueError(f"{who}: the view {of!r} has {has}: give integers [batch], a class for each row")
    return given.astype(jnp.promote_types(given.dtype, jnp.int32))

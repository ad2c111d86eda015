"""What a term of a loss sees of a network's pass: its inputs, features and output, by the name of the data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array


class View(NamedTuple):
    """One domain's part of a batch, or the whole batch of `finetune`.

    Args:
      features: the backbone's features by name.
      output: of the head, as logits [batch, classes].
      x: the input.
      y: labels [batch], or None where the domain has none.
      mask: [batch] bool, or None for all rows.
      rows: what else the batch says of each row, as its `domain`.
    """

    features: dict[str, Any]
    output: Any
    x: Any
    y: Any
    mask: Any
    rows: dict[str, Any]


Views: TypeAlias = dict[str, View]
"""By the names of the batch: `source`, `target`, and any others, as a second source or a strong augmentation."""


def needs(parts: Mapping[str, Any], names: Sequence[str], who: str, kind: str = "view") -> None:
    """Refuses views, or a batch of them, that lack one.

    Args:
      parts: by name.
      names: of those that are needed.
      who: needs them.
      kind: what one of them is called in the message.

    Raises:
      ValueError: naming the first that is missing, and those there are.
    """
    missing = [name for name in names if name not in parts]
    if missing:
        raise ValueError(f"{who} needs a {kind} {missing[0]!r}; the batch has {sorted(parts)}")


def classes_of_rows(y: Any, who: str, of: str = "source") -> Array:
    """Labels that are one class a row, int [batch].

    Args:
      y: of a view.
      who: needs them.
      of: the view's name, for the message.

    Raises:
      ValueError: for none, and for others, as those of mixed batches.
    """
    given = None if y is None else jnp.asarray(y)
    if given is None or given.ndim != 1 or not jnp.issubdtype(given.dtype, jnp.integer):
        has = "no labels" if given is None else f"labels of {given.dtype} {given.shape}"
        raise ValueError(f"{who}: the view {of!r} has {has}: give integers [batch], a class for each row")
    return given

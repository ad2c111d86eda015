"""What an alignment sees of two domains."""

from typing import Any, NamedTuple

from jaxtyping import Array


class View(NamedTuple):
    """One domain's part of a batch.

    Args:
      features: the backbone's features by name.
      pooled: [batch, dim], what the head saw.
      logits: [batch, classes].
      y: labels [batch], or None where the domain has none.
      mask: [batch] bool, or None for all rows.
    """

    features: dict[str, Array]
    pooled: Array
    logits: Array
    y: Any
    mask: Any


class Views(NamedTuple):
    """Both domains, from one pass over their rows together."""

    source: View
    target: View

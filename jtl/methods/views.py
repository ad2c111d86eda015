"""What a term of a loss sees of a network's pass: its inputs, features and output, by the name of the data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias


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

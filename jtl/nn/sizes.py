"""The measures of a transformer."""

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

from jtl.checked import whole, within

_Word = TypeVar("_Word", bound=str)


class Size(NamedTuple):
    """The measures of a transformer.

    Args:
      width: of a token.
      depth: number of blocks.
      heads: of the attention; divides the width.
      hidden: width of the blocks' perceptron.
    """

    width: int
    depth: int
    heads: int
    hidden: int


def sized(size: str | Size, known: Mapping[str, Size]) -> Size:
    """The measures of a name.

    Raises:
      ValueError: where it is none of the known.
    """
    if isinstance(size, str) and size not in known:
        raise ValueError(f"size={size!r}: give one of {list(known)}, or a Size(width, depth, heads, hidden)")
    return known[size] if isinstance(size, str) else size


def one_of(name: str, value: _Word, known: Collection[str]) -> _Word:
    """The value of an option.

    Raises:
      ValueError: where it is none of the known.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r}: give one of {list(known)}")
    return value


def check_size(size: Size, **rates: float) -> None:
    """Refuses measures that are no integers of at least 1, heads that do not divide the width, and no probabilities.

    Raises:
      ValueError: naming it and its value.
    """
    whole(1, **size._asdict())
    if size.width % size.heads:
        raise ValueError(f"width={size.width} is no multiple of heads={size.heads}")
    within("[0, 1)", **rates)

"""The dimensions of a transformer."""

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

from jtl.checked import whole, within

_Word = TypeVar("_Word", bound=str)


class Size(NamedTuple):
    """The dimensions of a transformer.

    Args:
      width: width of a token.
      depth: number of blocks.
      heads: number of attention heads; divides the width.
      hidden: hidden width of the blocks' MLPs.
    """

    width: int
    depth: int
    heads: int
    hidden: int


def sized(size: str | Size, known: Mapping[str, Size]) -> Size:
    """The dimensions of a size known by name.

    Raises:
      ValueError: for an unknown one.
    """
    if isinstance(size, str) and size not in known:
        raise ValueError(f"size={size!r}: give one of {list(known)}, or a Size(width, depth, heads, hidden)")
    return known[size] if isinstance(size, str) else size


def one_of(name: str, value: _Word, known: Collection[str]) -> _Word:
    """Returns the value of an option if it is known.

    Raises:
      ValueError: for an unknown one.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r}: give one of {list(known)}")
    return value


def check_size(size: Size, **rates: float) -> None:
    """Refuses sizes that are not integers of at least 1, heads that do not divide the width, and invalid rates.

    Raises:
      ValueError: naming the argument and its value.
    """
    whole(1, **size._asdict())
    if size.width % size.heads:
        raise ValueError(f"width={size.width} is no multiple of heads={size.heads}")
    within("[0, 1)", **rates)

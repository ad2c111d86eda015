"""Errors of weight files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WeightFileError(ValueError):
    """Raised for a weight file that is damaged, malicious, or in a format that jtl does not read."""


class WeightNameError(ValueError):
    """Raised if the tensors of a file do not fit the parameters of a model."""


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Puts the file's name in front of every `WeightFileError` raised inside."""
    try:
        yield
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def show(value: object, limit: int = 120) -> str:
    """Shows `value` in one short line, because a file may hold names of any length with any characters.

    Args:
      value: the value; only strings and numbers are printed, for anything else its type (a repr could recurse).
      limit: the maximal length in characters.
    """
    if isinstance(value, str):
        text = repr(value[: limit + 1])
    elif isinstance(value, int) and abs(value) >= 1 << 128:
        text = f"an integer of {value.bit_length()} bits"
    elif value is None or isinstance(value, (bool, int, float)):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."

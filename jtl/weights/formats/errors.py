"""Errors of weight files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WeightFileError(ValueError):
    """Raised for a weight file that is damaged, malicious or of a format that jtl does not read."""


class WeightNameError(ValueError):
    """Raised where the tensors of a file do not fit the parameters of a model."""


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Put the file's name in front of every `WeightFileError` raised inside."""
    try:
        yield
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def show(value: object, limit: int = 120) -> str:
    """`value` as one short line: a file may hold names of any length and with any character.

    Args:
      value: what to print; only strings and numbers are printed, of anything else the type (its repr
        could recurse).
      limit: the longest text, in characters.
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

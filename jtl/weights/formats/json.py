"""The small JSON files next to weights."""

from pathlib import Path
from typing import TypeVar

from jtl.weights.formats.errors import WeightFileError, in_file
from jtl.weights.formats.safetensors import parse_json
from jtl.weights.formats.source import ByteSource
from jtl.weights.formats.unsupported import by_start

MAX_CONFIG = 4 << 20  # bytes; 21,843 labels take one

_Kind = TypeVar("_Kind", dict, list)


def read_json(path: Path, kind: type[_Kind]) -> _Kind | None:
    """The content of a JSON file, an object or a list; None if the file does not exist.

    Raises:
      WeightFileError: the file is too large, damaged, or holds something else.
    """
    if not path.exists():
        return None
    source = ByteSource(path)
    if source.size > MAX_CONFIG:
        raise WeightFileError(f"{path}: has {source.size} bytes; at most {MAX_CONFIG} are read")
    text = source.bytes(0, source.size)
    with in_file(path):
        what = by_start(text[:64]) if not text.lstrip().startswith((b"{", b"[")) else None
        if what is not None:
            raise WeightFileError(f"is {what}")
        value = parse_json(text)
    if not isinstance(value, kind):
        wanted = "an object of names and values" if kind is dict else "a list"
        raise WeightFileError(f"{path}: holds a {type(value).__name__}, not {wanted}")
    return value

"""Files that are written whole; light, because `jtl --help` reads it."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jtl.replace import replace_file


def write_whole(file: Path, text: str) -> None:
    r"""Writes a text, never half of it, even where the process is killed.

    A name that is not UTF-8, which Python reads as surrogates, is written with `\udc..`, as JSON has it too.

    Args:
      file: to write; a device or a pipe, as /dev/stdout, is written straight.
      text: its content.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8", errors="backslashreplace")
    if file.exists() and not file.is_file():
        file.write_bytes(content)
    else:
        replace_file(file.resolve(), content)  # a link stays one


def write_table(file: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows as a .csv; see `write_whole`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(file, text.getvalue())

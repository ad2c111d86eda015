"""Writes files completely or not at all; light, because `jtl --help` imports it."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jtl.replace import replace_file


def write_whole(file: Path, text: str) -> None:
    r"""Writes a text completely or not at all, even if the process is killed.

    Surrogates, by which Python reads names that are not UTF-8, are written as `\udc..`, as in JSON.

    Args:
      file: the file to write; a device or a pipe, such as /dev/stdout, is written directly.
      text: the content.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8", errors="backslashreplace")
    if file.exists() and not file.is_file():
        file.write_bytes(content)
    else:
        replace_file(file.resolve(), content)  # a symbolic link stays one


def write_table(file: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows as a .csv; see `write_whole`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(file, text.getvalue())

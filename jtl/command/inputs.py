"""Files and texts that are given to a command."""

import os
from collections.abc import Sequence
from pathlib import Path

from jtl.command.tables import TABLES, rows


def files(inputs: Sequence[str]) -> list[Path]:
    """Each as a path.

    Raises:
      ValueError: for one that is no file.
    """
    for path in map(Path, inputs):
        if not path.is_file():
            raise ValueError(
                f"the file {str(path)!r} does not exist" if not path.exists() else f"{str(path)!r} is no file"
            )
    return [Path(given) for given in inputs]


def texts(inputs: Sequence[str], column: str = "text") -> list[str]:
    """Each as it is, or the lines of the file that it names; of a table the texts of one column.

    Args:
      inputs: texts, or files.
      column: of tables.

    Raises:
      ValueError: for a file that is no text, a folder, a table without the column, or where there is no text at all.
    """
    found: list[str] = []
    for given in inputs:
        if os.path.isdir(given):
            raise ValueError(f"{given!r} is a folder, and the network takes texts: give a text, a file or a table")
        if os.path.isfile(given) and Path(given).suffix.lower() in TABLES:
            found += [str(row[column]) for row in rows(Path(given), (column,), "--text")]
            continue
        try:
            # Windows begins a file with a mark; a line ends where an editor says so, not at every separator of Unicode.
            lines = Path(given).read_text("utf-8-sig").split("\n") if os.path.isfile(given) else [given]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {given!r} is no text in UTF-8: {error}") from error
        found += [line for line in lines if line.strip()]
    if not found:
        raise ValueError("there is no text in what was given; give a sentence, or a file of them, one a line")
    return found

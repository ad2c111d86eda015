"""Files and texts that are given to a command."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl.command.tables import TABLES, rows


class Text(NamedTuple):
    """A text that was given.

    Args:
      text: itself.
      beside: the other cells of its row by their columns; empty where it is of no table.
    """

    text: str
    beside: Mapping[str, Any]


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
    """The texts of `texts_in_tables` alone."""
    return [one.text for one in texts_in_tables(inputs, column)]


def texts_in_tables(
    inputs: Sequence[str], column: str = "text", options: str = "--text", mark: str | None = None
) -> list[Text]:
    """Each as it is, or the lines of the file that it names; of a table the texts of one column, with their rows.

    Args:
      inputs: texts, or files.
      column: of tables.
      options: of the command that name the column, for messages.
      mark: what is first tried between the cells of a table; see `jtl.command.tables.rows`.

    Raises:
      ValueError: for a file that is no text, a folder, a table without the column, or where there is no text at all.
    """
    found: list[Text] = []
    for given in inputs:
        if os.path.isdir(given):
            raise ValueError(f"{given!r} is a folder, and the network takes texts: give a text, a file or a table")
        if os.path.isfile(given) and Path(given).suffix.lower() in TABLES:
            for row in rows(Path(given), (column,), options, mark):
                found.append(Text(str(row[column]), {name: cell for name, cell in row.items() if name != column}))
            continue
        try:
            # Windows begins a file with a mark; a line ends where an editor says so, not at every separator of Unicode.
            lines = Path(given).read_text("utf-8-sig").split("\n") if os.path.isfile(given) else [given]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {given!r} is no text in UTF-8: {error}") from error
        found += [Text(line, {}) for line in lines if line.strip()]
    if not found:
        raise ValueError("there is no text in what was given; give a sentence, or a file of them, one a line")
    return found

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
    paths = [Path(os.path.expanduser(given)) for given in inputs]
    for path in paths:
        if not path.is_file():
            raise ValueError(
                f"the file {str(path)!r} does not exist" if not path.exists() else f"{str(path)!r} is no file"
            )
    return paths


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
      FileNotFoundError: for what is called as a table or a .txt file and is not there: a name that is mistyped.
      ValueError: for a file that is no text, a folder, a table without the column, or where there is no text at all.
    """
    found: list[Text] = []
    for given in inputs:
        path = os.path.expanduser(given)  # no Path: that of "" is the working directory
        suffix, there = Path(path).suffix.lower(), os.path.isfile(path)
        if os.path.isdir(path):
            raise ValueError(f"{given!r} is a folder, and the network takes texts: give a text, a file or a table")
        if suffix in (*TABLES, ".txt") and not os.path.exists(path) and len(given.splitlines()) == 1:
            what = "table" if suffix in TABLES else "file"
            raise FileNotFoundError(
                f"the {what} {path!r} does not exist; if it is a text that ends like this, put it into a file"
                " with one text per line"
            )
        if there and suffix in TABLES:
            for row in rows(Path(path), (column,), options, mark):
                found.append(Text(str(row[column]), {name: cell for name, cell in row.items() if name != column}))
            continue
        try:
            # Windows begins a file with a mark; a line ends where an editor says so, not at every separator of Unicode.
            lines = Path(path).read_text("utf-8-sig").split("\n") if there else [given]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {given!r} is no text in UTF-8: {error}") from error
        found += [Text(line, {}) for line in lines if line.strip()]
    if not found:
        raise ValueError("there is no text in what was given; give a sentence, or a file of them, one a line")
    return found

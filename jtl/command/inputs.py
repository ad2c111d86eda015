"""The files and texts given to a command."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl.command.tables import TABLES, rows


class Text(NamedTuple):
    """A text given to a command.

    Args:
      text: the text itself.
      beside: the other cells of its table row by column; empty if it is not from a table.
    """

    text: str
    beside: Mapping[str, Any]


def files(inputs: Sequence[str]) -> list[Path]:
    """Returns the inputs as paths.

    Raises:
      ValueError: for an input that is not a file.
    """
    paths = [Path(os.path.expanduser(given)) for given in inputs]
    for path in paths:
        if not path.is_file():
            raise ValueError(
                f"the file {str(path)!r} does not exist" if not path.exists() else f"{str(path)!r} is no file"
            )
    return paths


def texts(inputs: Sequence[str], column: str = "text") -> list[str]:
    """Returns the texts of `texts_in_tables`, without the other cells."""
    return [one.text for one in texts_in_tables(inputs, column)]


def texts_in_tables(
    inputs: Sequence[str], column: str = "text", options: str = "--text", mark: str | None = None
) -> list[Text]:
    """Returns each input as a text, or the lines of the file that it names, or one column of the table that it names.

    Args:
      inputs: texts, files or tables.
      column: the column of texts in tables.
      options: the options of the command that name the column, for messages.
      mark: the cell separator to try first; see `jtl.command.tables.rows`.

    Raises:
      FileNotFoundError: for an input with the suffix of a table or a .txt file that does not exist: a mistyped name.
      ValueError: for a file that is not text, a folder, a table without the column, or if there is no text at all.
    """
    found: list[Text] = []
    for given in inputs:
        path = os.path.expanduser(given)  # not a Path: Path("") is the working directory
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
            # Windows puts a byte order mark first. Lines end at "\n" as in editors, not at every Unicode separator.
            lines = Path(path).read_text("utf-8-sig").split("\n") if there else [given]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {given!r} is no text in UTF-8: {error}") from error
        found += [Text(line, {}) for line in lines if line.strip()]
    if not found:
        raise ValueError("there is no text in what was given; give a sentence, or a file of them, one a line")
    return found

"""Reads tables of texts or of file names, .csv, .tsv, .jsonl and .parquet, as rows."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from jtl.extras import NotInstalled

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
MARKS = {".csv": ",;\t", ".tsv": "\t"}
"""The possible cell separators of each kind of table."""
FILES = ("file", "files", "filename", "file_name", "filepath", "path", "image", "photo", "audio", "sound")
"""Names of columns, in upper or lower case, that may hold the paths of images or sounds."""
SHOWN = 300
"""The most characters of a row that a message shows."""
LONGEST = 1 << 24
"""The most characters of a cell."""
CLOSED = 'is a quotation mark not closed? A text that begins with one is written as """Yes"", he said"'


class Row(dict[str, Any]):
    """The cells of a row by column.

    Args:
      cells: the cells by column.
      line: the number of the row's first line in the file; for a .parquet, the number of the row, from 1.
      what: "line" or "row", for messages.
    """

    def __init__(self, cells: Mapping[str, Any], line: int, what: str = "line"):
        super().__init__(cells)
        self.line = line
        self.place = f"{what} {line}"


def rows(path: Path, columns: Sequence[str], options: str, mark: str | None = None) -> list[Row]:
    """Reads the rows of a table, each of which has these columns.

    The cells of a .csv may also be separated by semicolons or tabs, as spreadsheets in many countries write them; the
    separator is the one by which the first line names all these columns. White space around column names is removed.

    Args:
      path: the file.
      columns: the names of the required columns, which must not be empty in any row.
      options: the options of the command that name them, for messages.
      mark: the cell separator of the tables read before, which is tried first; None for the usual order.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a table of another kind or without rows; a column that is missing or occurs twice; an empty cell;
        a row with more cells than there are columns, for example because a comma within a text is not quoted; or a cell
        that begins with a quotation mark and does not end with the next.
      NotInstalled: a ModuleNotFoundError, for a .parquet without pyarrow.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"the table {str(path)!r} does not exist")
    found = _read(path, columns, mark)
    if not found:
        raise ValueError(f"{str(path)!r} has no rows")
    for name in columns:
        if name not in found[0]:
            examples = name == columns[0] and "--text" in options  # not a column of labels or groups
            files = [other for other in found[0] if other.lower() in FILES and examples]
            raise ValueError(
                f"{str(path)!r} has no column {name!r}; its columns are {list(found[0])}: give {options}"
                + (f", or --file {files[0]} where it holds paths of images or sounds" if files else "")
                + ("; the first line must name the columns" if path.suffix.lower() in MARKS else "")
            )
    if wrong := [(row, name) for row in found for name in columns if _nothing(row.get(name))]:
        (row, name), shown = wrong[0], str(dict(wrong[0][0]))
        raise ValueError(
            f"{places(path, [row.line for row, _ in wrong])} an empty {name!r}: {shown[:SHOWN]}"
            + ("… is a quotation mark before it not closed?" if len(shown) > SHOWN else "")
        )
    if wrong := [(row, name) for row in found for name in columns if not isinstance(row[name], str | int | float)]:
        row, name = wrong[0]
        raise ValueError(
            f"{places(path, [row.line for row, _ in wrong])} a {type(row[name]).__name__} as {name!r},"
            f" {str(row[name])[:SHOWN]}: give a text or a number"
        )
    return found


def places(path: Path, lines: Sequence[int]) -> str:
    """Names the first of some lines of a table and the number of the others, as the subject of a message.

    Example:
      >>> places(Path("films.csv"), [3]), places(Path("films.parquet"), [2, 5, 6])
      ("line 3 of 'films.csv' has", "row 2 of 'films.parquet' and 2 more have")
    """
    lines = list(dict.fromkeys(lines))
    what = "row" if path.suffix.lower() == ".parquet" else "line"
    told = f"{what} {lines[0]} of {str(path)!r}"
    return f"{told} has" if len(lines) == 1 else f"{told} and {len(lines) - 1} more have"


def _nothing(value: Any) -> bool:
    """Returns whether a cell is empty; NaN counts as empty, because pandas writes missing numbers so."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()


def mark_of(path: Path, columns: Sequence[str]) -> str | None:
    """Returns the cell separator of a table with these columns; None if its kind has none.

    Args:
      path: the file.
      columns: column names in its first line.
    """
    kind = path.suffix.lower()
    if kind not in MARKS:
        return None
    with open(path, encoding="utf-8-sig", newline="") as file:
        return _mark(file.readline(), columns, MARKS[kind])


def _mark(first: str, columns: Sequence[str], marks: str) -> str:
    """Returns the separator by which the first line names these columns; else the one with the most names."""
    fits = (mark for mark in marks if set(columns) <= set(_names(first, mark)))
    return next(fits, max(marks, key=lambda mark: len(_names(first, mark))))


def _read(path: Path, columns: Sequence[str], mark: str | None) -> list[Row]:
    kind = path.suffix.lower()
    if kind not in TABLES or not path.is_file():
        raise ValueError(f"{str(path)!r} is no table that jtl reads: give one of {', '.join(TABLES)}, or a folder")
    if kind == ".parquet":
        return _parquet(path)
    try:
        if kind == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            return _objects(path, [(i, line) for i, line in enumerate(lines, 1) if line.strip()])
        with open(path, encoding="utf-8-sig", newline="") as file:
            marks = MARKS[kind]
            first = mark if mark is not None and mark in marks else ""
            return _separated(path, file, columns, first + marks.replace(first, ""))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is no table in UTF-8: {error}; save it as UTF-8 (a spreadsheet calls it 'CSV UTF-8')"
        ) from error


def _separated(path: Path, file: TextIO, columns: Sequence[str], marks: str) -> list[Row]:
    mark = _mark(file.readline(), columns, marks)
    file.seek(0)
    before = csv.field_size_limit(LONGEST)  # a setting of the whole process; 131,072 by default
    try:
        return _rows(path, csv.reader(file, delimiter=mark, strict=True), columns, mark)
    finally:
        csv.field_size_limit(before)


def _rows(path: Path, lines: Any, columns: Sequence[str], mark: str) -> list[Row]:
    names, found = [name.strip() for name in next(_numbered(path, lines), (1, []))[1]], []
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise ValueError(f"{str(path)!r} has the column {twice[0]!r} {names.count(twice[0])} times: {names}")
    keys = [name if name not in names[:i] else f"{name}.{i}" for i, name in enumerate(names)]  # no column is lost
    wide: list[tuple[int, list[str]]] = []
    for first, cells in _numbered(path, lines):
        if mark == "\t" and any("\n" in cell and mark in cell for cell in cells):
            raise ValueError(
                f"{_place(path, first)} has a cell of several lines with tabs, {str(cells)[:SHOWN]}; {CLOSED}"
            )
        if any(cell.strip() for cell in cells[len(names) :]):
            wide.append((first, cells))
        if cells:
            found.append(Row(dict(zip_longest(keys, cells[: len(keys)])), first))
    if wide:
        raise ValueError(
            f"{_place(path, wide[0][0])} has {len(wide[0][1])} cells, and there are {len(names)} columns, {names}"
            f"{_others(wide)}: put a text that holds {mark!r} into quotation marks: {str(wide[0][1])[:SHOWN]}"
        )
    return found


def _numbered(path: Path, lines: Any) -> Iterator[tuple[int, list[str]]]:
    """Yields the cells of each row, with the number of its first line."""
    while True:
        first = lines.line_num + 1
        try:
            yield first, next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{_place(path, first)} is no row of a table: {error}; {CLOSED}") from error


def _place(path: Path, line: int) -> str:
    return f"line {line} of {str(path)!r}"


def _others(wrong: Sequence[Any]) -> str:
    more = len(wrong) - 1
    return f" ({more} more {'line is' if more == 1 else 'lines are'} wrong in this way)" if more else ""


def _names(line: str, mark: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=mark), [])]


def _parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        message = f"{str(path)!r} needs pyarrow: pip install pyarrow, or write the table as .csv or .jsonl"
        raise NotInstalled(message, name="pyarrow") from error
    try:
        return [Row(cells, i, "row") for i, cells in enumerate(parquet.read_table(path).to_pylist(), 1)]
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{str(path)!r} is no Parquet file that pyarrow reads: {error}") from error


def _objects(path: Path, lines: Sequence[tuple[int, str]]) -> list[Row]:
    """Parses numbered lines of JSON as rows."""
    found, wrong = [], []
    for number, line in lines:
        try:
            cells, why = json.loads(line), f"no JSON object: {line[:50]!r}"
        except json.JSONDecodeError as error:
            cells, why = None, f"no JSON: {error}"
        if isinstance(cells, dict):
            found.append(Row(cells, number))
        else:
            wrong.append((number, why))
    if wrong:
        raise ValueError(f"{_place(path, wrong[0][0])} is {wrong[0][1]}{_others(wrong)}")
    return found

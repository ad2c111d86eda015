"""Tables of texts or of names of files: .csv, .tsv, .jsonl and .parquet, as rows."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
MARKS = {".csv": ",;\t", ".tsv": "\t"}
"""What may stand between the cells of a line, by the kind of table."""
FILES = ("file", "files", "filename", "file_name", "filepath", "path", "image", "photo", "audio", "sound")
"""Columns of these names, in any case, may hold the paths of images or sounds."""
SHOWN = 300
"""Characters of a row that a message shows."""
LONGEST = 1 << 24
"""Characters of the longest cell of a table."""
CLOSED = 'is a quotation mark not closed? A text that begins with one is written as """Yes"", he said"'


def rows(path: Path, columns: Sequence[str], options: str, mark: str | None = None) -> list[dict[str, Any]]:
    """The rows of a table, each of which has these columns; see `placed`."""
    return [row for _, row in placed(path, columns, options, mark)]


def placed(
    path: Path, columns: Sequence[str], options: str, mark: str | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a table, each of which has these columns, with their places: "line 2", of a .parquet "row 1".

    A .csv whose first line names them all between semicolons or tabs, as spreadsheets of many countries write it, is
    read by that mark. Names of columns are taken without the space around them.

    Args:
      path: of the file.
      columns: that are wanted, by name; none of them empty in any row.
      options: of the command that name them, for messages.
      mark: what stood between the cells of the tables before, which is tried first; None for the usual order.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a table of another kind or without rows, a column that it does not have or has twice, an empty
        cell, a row of more cells than there are columns, as where a comma within a text is not quoted, or a cell that
        begins with a quotation mark and does not end with the next.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"the table {str(path)!r} does not exist")
    found = _read(path, columns, mark)
    if not found:
        raise ValueError(f"{str(path)!r} has no rows")
    names = list(found[0][1])
    for name in columns:
        if name not in names:
            files = [other for other in names if other.lower() in FILES and "--text" in options]
            raise ValueError(
                f"{str(path)!r} has no column {name!r}; its columns are {names}: give {options}"
                + (f", or --file {files[0]} where it holds paths of images or sounds" if files else "")
                + ("; the first line must name the columns" if path.suffix.lower() in MARKS else "")
            )
    for i, (_, row) in enumerate(found, 1):
        for name in columns:
            value = row.get(name)
            nothing = value is None or (isinstance(value, float) and math.isnan(value))  # as pandas writes it
            if nothing or not str(value).strip():
                shown = str(row)
                raise ValueError(
                    f"row {i} of {str(path)!r} has an empty {name!r}: {shown[:SHOWN]}"
                    + ("… is a quotation mark before it not closed?" if len(shown) > SHOWN else "")
                )
            if not isinstance(value, str | int | float):
                raise ValueError(
                    f"row {i} of {str(path)!r} has a {type(value).__name__} as {name!r}, {str(value)[:SHOWN]}: give a"
                    " text or a number"
                )
    return found


def mark_of(path: Path, columns: Sequence[str]) -> str | None:
    """What stands between the cells of a table with these columns; None where its kind has no such mark.

    Args:
      path: of the file.
      columns: that its first line names.
    """
    kind = path.suffix.lower()
    if kind not in MARKS:
        return None
    with open(path, encoding="utf-8-sig", newline="") as file:
        return _mark(file.readline(), columns, MARKS[kind])


def _mark(first: str, columns: Sequence[str], marks: str) -> str:
    """The mark by which the first line names these columns; else that by which it names most, for the message."""
    fits = (mark for mark in marks if set(columns) <= set(_names(first, mark)))
    return next(fits, max(marks, key=lambda mark: len(_names(first, mark))))


def _read(path: Path, columns: Sequence[str], mark: str | None) -> list[tuple[str, dict[str, Any]]]:
    kind = path.suffix.lower()
    if kind not in TABLES or not path.is_file():
        raise ValueError(f"{str(path)!r} is no table that jtl reads: give one of {', '.join(TABLES)}, or a folder")
    if kind == ".parquet":
        return [(f"row {i}", row) for i, row in enumerate(_parquet(path), 1)]
    try:
        if kind == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            return [(f"line {i}", _object(path, i, line)) for i, line in enumerate(lines, 1) if line.strip()]
        with open(path, encoding="utf-8-sig", newline="") as file:
            marks = MARKS[kind]
            first = mark if mark is not None and mark in marks else ""
            return _separated(path, file, columns, first + marks.replace(first, ""))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is no table in UTF-8: {error}; save it as UTF-8 (a spreadsheet calls it 'CSV UTF-8')"
        ) from error


def _separated(path: Path, file: TextIO, columns: Sequence[str], marks: str) -> list[tuple[str, dict[str, Any]]]:
    mark = _mark(file.readline(), columns, marks)
    file.seek(0)
    before = csv.field_size_limit(LONGEST)  # which is of the process; 131,072 without this
    try:
        return _rows(path, csv.reader(file, delimiter=mark, strict=True), columns, mark)
    finally:
        csv.field_size_limit(before)


def _rows(path: Path, lines: Any, columns: Sequence[str], mark: str) -> list[tuple[str, dict[str, Any]]]:
    names, found = [name.strip() for name in next(_numbered(path, lines), (1, []))[1]], []
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise ValueError(f"{str(path)!r} has the column {twice[0]!r} {names.count(twice[0])} times: {names}")
    keys = [name if name not in names[:i] else f"{name}.{i}" for i, name in enumerate(names)]  # each column is kept
    for first, cells in _numbered(path, lines):
        if mark == "\t" and any("\n" in cell and mark in cell for cell in cells):
            raise ValueError(
                f"{_place(path, first)} has a cell of several lines with tabs, {str(cells)[:SHOWN]}; {CLOSED}"
            )
        if any(cell.strip() for cell in cells[len(names) :]):
            raise ValueError(
                f"{_place(path, first)} has {len(cells)} cells, and there are {len(names)} columns,"
                f" {names}: put a text that holds {mark!r} into quotation marks: {str(cells)[:SHOWN]}"
            )
        if cells:
            found.append((f"line {first}", dict(zip_longest(keys, cells[: len(keys)]))))
    return found


def _numbered(path: Path, lines: Any) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row, with the number of its first line."""
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


def _names(line: str, mark: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=mark), [])]


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{str(path)!r} needs pyarrow: pip install pyarrow, or write the table as .csv or .jsonl"
        ) from error
    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{str(path)!r} is no Parquet file that pyarrow reads: {error}") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} of {str(path)!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"line {number} of {str(path)!r} is no JSON object: {line[:50]!r}")
    return found

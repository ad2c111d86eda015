"""Tables of texts: .csv, .tsv, .jsonl and .parquet, as rows."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def rows(path: Path, columns: Sequence[str], options: str) -> list[dict[str, Any]]:
    """The rows of a table, each of which has these columns.

    Args:
      path: of the file.
      columns: that are wanted, by name; none of them empty in any row.
      options: of the command that name them, for messages.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a table of another kind or without rows, a column that it does not have, or an empty cell.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"the table {str(path)!r} does not exist")
    found = _read(path)
    if not found:
        raise ValueError(f"{str(path)!r} has no rows")
    for name in columns:
        if name not in found[0]:
            raise ValueError(f"{str(path)!r} has no column {name!r}; there are {list(found[0])}: give {options}")
    for i, row in enumerate(found, 1):
        for name in columns:
            value = row.get(name)
            if value is None or not str(value).strip():
                raise ValueError(f"row {i} of {str(path)!r} has an empty {name!r}: {row}")
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    kind = path.suffix.lower()
    if kind not in TABLES or not path.is_file():
        raise ValueError(f"{str(path)!r} is no table that jtl reads: give one of {', '.join(TABLES)}, or a folder")
    if kind == ".parquet":
        return _parquet(path)
    try:
        if kind == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            return [_object(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
        with open(path, encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} is no table in UTF-8: {error}") from error


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

"""Images and sounds whose files a table lists, one path per row."""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from jtl.command.tables import Row
from jtl.data.folder import SUFFIXES

SOUNDS = (".wav", ".flac")
CODED = (".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif")
Kind = Literal["images", "sounds", "texts"]
SHOWN = 10
"""The most files that a message lists."""


def suffixes_of(kind: str) -> tuple[str, ...]:
    """Returns the suffixes of files that hold images or sounds."""
    return SOUNDS if kind == "sounds" else SUFFIXES


def kind_of(files: Iterable[Path], holder: Path) -> Kind:
    """Returns the kind of some files by their suffixes: sounds if one of them is a sound, else images.

    Raises:
      ValueError: for sounds in a format that jtl does not decode.
    """
    kinds = {file.suffix.lower() for file in files}
    if coded := sorted(kinds & set(CODED)):
        raise ValueError(
            f"{str(holder)!r} holds {coded[0]} files, which jtl does not decode: convert these sounds to one of"
            f" {', '.join(SOUNDS)}"
        )
    return "sounds" if kinds & set(SOUNDS) else "images"


def listed(path: Path, column: str, rows: Sequence[Row]) -> tuple[Kind, tuple[Path, ...]]:
    """Returns the kind of the files that a table names, and their paths.

    Args:
      path: the table; relative paths are relative to its folder.
      column: the column of paths.
      rows: the rows of the table.

    Raises:
      FileNotFoundError: for missing files, naming their number, and the first ten with their lines.
      ValueError: for a file of another kind than the others, or one that is neither an image nor a sound.
    """
    files = tuple(path.parent / str(row[column]).strip() for row in rows)
    lost = [(row.place, file) for row, file in zip(rows, files, strict=True) if not os.path.isfile(file)]
    if lost:
        shown = "".join(f"\n  {place}: {str(file)!r}" for place, file in lost[:SHOWN])
        windows = all(os.path.isfile(str(file).replace("\\", "/")) for _, file in lost)
        slash = ", with / in place of a backslash" if windows else ""
        raise FileNotFoundError(
            f"{len(lost)} of the {len(files)} files that {str(path)!r} names in {column!r} are not there; a path is"
            f" relative to the table's folder, or absolute{slash}:{shown}" + "\n  ..." * (len(lost) > SHOWN)
        )
    kind = kind_of(files, path)
    for row, file in zip(rows, files, strict=True):
        if file.suffix.lower() not in suffixes_of(kind):
            what = "an image" if kind == "images" else "a sound, and others are"
            raise ValueError(
                f"{row.place} of {str(path)!r} names {str(file)!r}, which is not {what}; suffixes are"
                f" {suffixes_of(kind)}"
            )
    return kind, files


def refuse_two_labels(path: Path, places: Sequence[str], files: Sequence[Path], labels: Sequence[str]) -> None:
    """Refuses a table that gives a file two labels.

    Args:
      path: the table.
      places: where each row stands, such as "line 2".
      files: the file of each row.
      labels: the label of each row.

    Raises:
      ValueError: naming both lines.
    """
    seen: dict[Path, int] = {}
    for i, file in enumerate(files):
        first = seen.setdefault(file.resolve(), i)
        if labels[first] != labels[i]:
            raise ValueError(
                f"{str(path)!r} has {str(file)!r} twice: {places[first]} has the label {labels[first]!r},"
                f" {places[i]} {labels[i]!r}; keep one"
            )


def hint(kind: str, items: Sequence[Any], path: Path, column: str) -> str:
    """Returns a hint for a message about a table's texts, if these are names of files; else "".

    Args:
      kind: the kind of the examples.
      items: the examples.
      path: the table, or a folder of tables.
      column: the column of texts.
    """
    path = path.expanduser()
    folder = path if path.is_dir() else path.parent
    named = kind == "texts" and all(os.path.isfile(folder / str(item).strip()) for item in items[:SHOWN])
    how = f"--file {shlex.quote(column)}"
    return f"; the column {column!r} of the table holds names of files: give {how}" if named else ""

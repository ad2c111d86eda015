"""Images and sounds whose files a table lists, a path in each row."""

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
"""Files that a message lists."""


def suffixes_of(kind: str) -> tuple[str, ...]:
    """Of the files that hold images, or sounds."""
    return SOUNDS if kind == "sounds" else SUFFIXES


def kind_of(files: Iterable[Path], holder: Path) -> Kind:
    """The kind of some files by their suffixes: sounds where one is a sound, else images.

    Raises:
      ValueError: for sounds that are not decoded.
    """
    kinds = {file.suffix.lower() for file in files}
    if coded := sorted(kinds & set(CODED)):
        raise ValueError(
            f"{str(holder)!r} holds {coded[0]} files, which jtl does not decode: convert these sounds to one of"
            f" {', '.join(SOUNDS)}"
        )
    return "sounds" if kinds & set(SOUNDS) else "images"


def listed(path: Path, column: str, rows: Sequence[Row]) -> tuple[Kind, tuple[Path, ...]]:
    """The kind of the files that a table names, and their paths.

    Args:
      path: of the table; relative paths begin in its folder.
      column: of the paths.
      rows: of the table.

    Raises:
      FileNotFoundError: for files that are not there: how many, and the first ten with their lines.
      ValueError: for a file of another kind than the others, or that is no image and no sound.
    """
    files = tuple(path.parent / str(row[column]).strip() for row in rows)
    lost = [(row.place, file) for row, file in zip(rows, files, strict=True) if not os.path.isfile(file)]
    if lost:
        shown = "".join(f"\n  {place}: {str(file)!r}" for place, file in lost[:SHOWN])
        raise FileNotFoundError(
            f"{len(lost)} of the {len(files)} files that {str(path)!r} names in {column!r} are not there; a path is"
            f" relative to the table's folder, or absolute:{shown}" + "\n  ..." * (len(lost) > SHOWN)
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
      path: of the table.
      places: of its rows, as "line 2".
      files: that they name.
      labels: that they give.

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
    """What a message on a table's texts adds where these are names of files; "" where they are not.

    Args:
      kind: of the examples.
      items: the examples.
      path: of the table, or of a folder of tables.
      column: of the texts.
    """
    path = path.expanduser()
    folder = path if path.is_dir() else path.parent
    named = kind == "texts" and all(os.path.isfile(folder / str(item).strip()) for item in items[:SHOWN])
    how = f"--file {shlex.quote(column)}"
    return f"; the column {column!r} of the table holds names of files: give {how}" if named else ""

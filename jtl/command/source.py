"""Reads the data: a folder of images or sounds by class, or a table of texts or files; already split or not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jtl.command.class_labels import Reader, class_labels, refuse_few
from jtl.command.file_tables import SOUNDS, Kind, kind_of, listed, refuse_two_labels, suffixes_of
from jtl.command.tables import TABLES, mark_of, rows
from jtl.data.folder import PARTS, SUFFIXES, below, inside, scan, visible
from jtl.data.pipeline import composed

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Examples:
    """Examples of one split.

    Args:
      kind: the kind of all examples.
      items: files of images or sounds, or texts.
      labels: int32 [examples], indices into `classes`; or the numbers to predict, float64 [examples].
      classes: the names of the classes; of numbers, one name, that of their column.
      groups: the group of each example, such as its speaker; None if they have no groups.
    """

    kind: Kind
    items: tuple[Any, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> list[str]:
        """The label of each example in words: the name of its class, or its number."""
        return [str(label) if self.numeric else self.classes[label] for label in self.labels.tolist()]

    @property
    def numeric(self) -> bool:
        """Whether the labels are numbers to predict."""
        return self.labels.dtype.kind == "f"

    @property
    def strata(self) -> np.ndarray:
        """The class of each example, within which splits are drawn, int [examples]; 0 for numbers."""
        return np.zeros(len(self), np.int32) if self.numeric else self.labels

    @property
    def targets(self) -> np.ndarray:
        """The labels as a training step takes them, int32 or float32 [examples]."""
        return self.labels.astype(np.float32) if self.numeric else self.labels

    def rows(self, index: Sequence[int] | np.ndarray) -> "Examples":
        """Returns the examples at some indices."""
        groups = None if self.groups is None else tuple(self.groups[i] for i in index)
        items = tuple(self.items[i] for i in index)
        return replace(self, items=items, labels=self.labels[np.asarray(index, int)], groups=groups)


def joined(parts: Sequence[Examples]) -> Examples:
    """Concatenates the examples of several splits of the same data."""
    groups = None if parts[0].groups is None else tuple(group for part in parts for group in part.groups or ())
    items, labels = (
        tuple(item for part in parts for item in part.items),
        np.concatenate([part.labels for part in parts]),
    )
    return replace(parts[0], items=items, labels=labels, groups=groups)


def read(
    path: Path,
    *,
    text: str = "text",
    label: str = "label",
    file: str | None = None,
    group: str | None = None,
    classes: Sequence[str] | None = None,
    labels: Reader = class_labels,
) -> dict[str, Examples]:
    """Reads the examples of a folder or a table by split; under "all" if they are not split yet.

    Args:
      path: a folder of class folders, of splits with class folders, or of tables named as splits; or a .csv, .tsv,
        .jsonl or .parquet file.
      text: the column of texts in a table.
      label: the column of labels in a table.
      file: the column of paths in a table of images or sounds; None for a table of texts, and for folders of files.
      group: the column of groups in a table; for folders, a regex that is searched in the file names, whose first
        parenthesis, or else whole match, is the group.
      classes: the expected class names; None for those that are found.
      labels: reads the labels of a table: `class_labels` or `number_labels`.

    Raises:
      FileNotFoundError: if the path, or a file that a table lists, does not exist.
      ValueError: for a table that lacks one of these columns or has a row without a value; a file of another kind, with
        two labels or without a group; a folder of files if `file` or numbers ask for a table; fewer than two classes;
        a label that is no number; a split that is duplicate or empty; or splits with other classes than `train`.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"the data {str(path)!r} do not exist: give a folder, or a table: {', '.join(TABLES)}")

    def examples(place: Path, classes: Sequence[str] | None) -> Examples:
        if place.is_file():
            return _table(place, text, label, file, group, classes, labels)
        if labels is not class_labels:
            raise ValueError(
                f"{str(place)!r} is a folder whose folders are classes, and --task regression needs numbers: give a"
                " table, with the column of the files, --file COLUMN, and that of the numbers, --label COLUMN"
            )
        if file is not None:
            raise ValueError(
                f"--file {file!r} is the column of a table, and {str(place)!r} is a folder without tables"
                f" {', '.join(SPLITS)}: give the table"
            )
        return _files(place, group, classes)

    parts = parts_of(path, tables=file is not None)
    if not parts:
        return {"all": examples(path, classes)}
    if "train" not in parts:
        raise ValueError(f"{str(path)!r} holds {sorted(p.name for p in parts.values())} and no folder train/")
    first = examples(parts["train"], classes)
    found = {"train": first, **{n: examples(p, first.classes) for n, p in parts.items() if n != "train"}}
    for name, part in found.items():
        if not len(part):
            raise ValueError(f"the split {str(parts[name])!r} holds no example: add some, or remove the split")
        if part.kind != first.kind:
            raise ValueError(f"{str(parts[name])!r} holds {part.kind}, and {str(parts['train'])!r} {first.kind}")
    return found


def parts_of(root: Path, tables: bool = False) -> dict[str, Path]:
    """Returns the folders or tables in a folder that are named as splits; nothing if `root` is not a folder.

    Args:
      root: the folder.
      tables: whether to look for tables alone, because the folders next to them hold the files that they list.

    Raises:
      ValueError: for a duplicate split, or a folder of another name that holds files next to the training folder.
    """
    found: dict[str, Path] = {}
    for place in sorted(root.iterdir()) if root.is_dir() else []:
        if place.is_dir():
            stem = "" if tables else place.name
        else:
            stem = place.stem if place.suffix.lower() in TABLES else ""
        name = PARTS.get(stem.lower())
        if name is None:
            continue
        if name in found:
            raise ValueError(
                f"{str(root)!r} has the split {name!r} twice, as {found[name].name!r} and {place.name!r}: keep one"
            )
        found[name] = place
    if "train" in found and found["train"].is_dir():
        others = [place for place in visible(root) if place.is_dir() and place not in found.values()]
        # Its examples may be meant for a split, and would be ignored.
        if other := next((place for place in others if any(file.is_file() for file in below(place))), None):
            raise ValueError(
                f"{str(other)!r} holds files and lies beside the split {found['train'].name!r}: splits are called"
                f" {', '.join(PARTS)}; rename it as one of these, or move it elsewhere"
            )
    return found


def files_of(places: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Returns the images among files and folders, in order; or the sounds, depending on `suffixes`.

    Raises:
      FileNotFoundError: if a path does not exist, or no such file is found.
    """
    found = [file for place in places for file in files_in(place, suffixes)]
    refuse_none(found, places, suffixes)
    return found


def files_in(place: str, suffixes: Sequence[str]) -> list[Path]:
    """Returns the given file, or the files in a folder with these suffixes, possibly none.

    Raises:
      FileNotFoundError: for a path that does not exist.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"the file {str(path)!r} does not exist")
    return inside(path, suffixes) if path.is_dir() else [path]


def refuse_none(found: Sequence[Path], places: Sequence[str], suffixes: Sequence[str]) -> None:
    """Refuses places that hold no file with these suffixes.

    Args:
      found: the files that they hold.
      places: files and folders.
      suffixes: the suffixes that were looked for.

    Raises:
      FileNotFoundError: if nothing was found.
    """
    if not found:
        what = "sound" if tuple(suffixes) == SOUNDS else "image"
        raise FileNotFoundError(f"no {what} in {list(places)}; the suffixes that jtl reads are {tuple(suffixes)}")


def passed_over(places: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Returns a note on the files in folders that `files_of` skips; an empty list if it takes all.

    Args:
      places: files and folders.
      suffixes: the suffixes of the files that are taken.
    """
    folders = [place for place in (Path(given).expanduser() for given in places) if place.is_dir()]
    kinds = [file.suffix.lower() for folder in folders for file in below(folder)]
    others = [kind for kind in kinds if kind not in suffixes]
    named = ", ".join(kind or "no suffix" for kind in sorted(set(others)))
    told = f"{len(others)} of {len(kinds)} files in the folders are not read, because of their suffix: {named}"
    return [told] if others else []


def in_tables(path: Path) -> bool:
    """Returns whether the data are a table, or a folder of tables named as splits."""
    path = path.expanduser()
    return path.is_file() or bool(parts_of(path, tables=True))


def mark(path: Path, text: str, label: str, file: str | None = None) -> str | None:
    """Returns the cell separator of a table, the one to train on if split; None for folders and other tables.

    Example:
      >>> import tempfile
      >>> table = Path(tempfile.mkdtemp()) / "films.csv"
      >>> _ = table.write_text("review;stars")
      >>> mark(table, "review", "stars")
      ';'
    """
    path = path.expanduser()
    place = parts_of(path, tables=file is not None).get("train", path)
    return mark_of(place, (text if file is None else file, label)) if place.is_file() else None


def column(path: Path, name: str) -> list[str]:
    """Reads the texts of a table's column; see `jtl.command.tables.rows` for the errors."""
    return [str(row[name]) for row in rows(path, (name,), "--text")]


def paths(path: Path, column: str) -> tuple[Kind, tuple[Path, ...]]:
    """Returns the kind of the files that a table lists, and their paths; see `listed` and `rows` for the errors."""
    path = path.expanduser()
    return listed(path, column, rows(path, (column,), "--file"))


def _files(root: Path, group: str | None, classes: Sequence[str] | None) -> Examples:
    folders = [place for place in visible(root) if place.is_dir()] if root.is_dir() else []
    loose = [] if folders or not root.is_dir() else [file.suffix.lower() for file in visible(root)]
    if what := next((what for what in ("images", "sounds") if set(suffixes_of(what)) & set(loose)), None):
        raise ValueError(
            f"{str(root)!r} holds {what} and no folders: put the {what} of each class into a folder of its own, and"
            f" give the folder that holds these. Without labels {what} are taken by `jtl predict`, `jtl features` and"
            " as the target of `jtl adapt`"
        )
    kind = kind_of((file for folder in folders for file in visible(folder)), root)
    names, files, labels = scan(root, classes, suffixes_of(kind), kind.removesuffix("s"))
    groups = None if group is None else tuple(_group(file, group) for file in files)
    refuse_few(names, root)
    return Examples(kind, tuple(files), labels, names, groups)


def _group(file: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, file.name)
    except re.error as error:
        raise ValueError(f"--group {pattern!r} is no regex: {error}") from error
    if found is None or found[found.re.groups and 1] is None:
        raise ValueError(f"--group {pattern!r} is not in the name of {str(file)!r}")
    return found[found.re.groups and 1]


def _table(
    path: Path,
    text: str,
    label: str,
    file: str | None,
    group: str | None,
    classes: Sequence[str] | None,
    labels: Reader,
) -> Examples:
    columns = (text if file is None else file, label, *(() if group is None else (group,)))
    options = ", ".join(("--text" if file is None else "--file", "--label", "--group")[: len(columns)])
    found = rows(path, columns, options)
    numbers, names = labels(path, found, label, classes)
    groups = None if group is None else tuple(composed(str(row[group]).strip()) for row in found)
    if file is None:
        return Examples("texts", tuple(str(row[text]) for row in found), numbers, names, groups)
    kind, files = listed(path, file, found)
    examples = Examples(kind, files, numbers, names, groups)
    refuse_two_labels(path, [row.place for row in found], files, examples.names)
    return examples

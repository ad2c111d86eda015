"""What the data are: a folder of images by class, already split or not, or a table of texts."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jtl.data.folder import SUFFIXES, scan

SPLITS = ("train", "val", "test")
_SPELLED = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
            "test": "test"}  # fmt: skip
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
SHARES = {"val": 0.15, "test": 0.15}


@dataclass(frozen=True)
class Examples:
    """Examples of one split.

    Args:
      kind: of all.
      items: files of images, or texts.
      labels: int32 [examples].
      classes: the names that labels mean.
    """

    kind: Literal["images", "texts"]
    items: tuple[Any, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    def rows(self, index: Sequence[int] | np.ndarray) -> "Examples":
        """Some of them."""
        return replace(self, items=tuple(self.items[i] for i in index), labels=self.labels[np.asarray(index, int)])


def read(
    path: Path, *, text: str = "text", label: str = "label", classes: Sequence[str] | None = None
) -> dict[str, Examples]:
    """The examples of a folder or a table, by split; under "all" where they are not split yet.

    Args:
      path: of a folder of class folders, or of splits with class folders; or of a .csv, .tsv, .jsonl or .parquet file.
      text: a table's column of texts.
      label: a table's column of labels.
      classes: the names to expect; None for those that are found.

    Raises:
      FileNotFoundError: where there is nothing.
      ValueError: for a table without these columns or with a row that lacks one, a file of another kind, fewer than two
        classes, or splits whose classes differ from those of `train`.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"the data {str(path)!r} do not exist: give a folder, or a table: {', '.join(TABLES)}")
    if path.is_file():
        return {"all": _table(path, text, label, classes)}
    parts = {_SPELLED[p.name.lower()]: p for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower() in _SPELLED}
    if not parts:
        return {"all": _images(path, classes)}
    if "train" not in parts:
        raise ValueError(f"{str(path)!r} holds {sorted(p.name for p in parts.values())} and no folder train/")
    first = _images(parts["train"], classes)
    return {"train": first, **{n: _images(p, first.classes) for n, p in parts.items() if n != "train"}}


def split(found: dict[str, Examples], seed: int) -> dict[str, Examples]:
    """Train, validation and test: as given, and what is not given drawn from `train` within each class.

    Equal examples (the same bytes, or the same text) are drawn into the same split.

    Raises:
      ValueError: for a class with too few examples to be in every split.
    """
    whole = found.get("train", found.get("all"))
    assert whole is not None
    wanted = {name: share for name, share in SHARES.items() if name not in found}
    if not wanted:
        return {name: found[name] for name in SPLITS}
    draw, taken = np.random.default_rng(seed), {name: [] for name in ("train", *wanted)}
    marks = np.array([fingerprint(item) for item in whole.items])
    for label, name in enumerate(whole.classes):
        here = np.flatnonzero(whole.labels == label)
        groups = [here[marks[here] == mark] for mark in dict.fromkeys(marks[here])]
        if len(groups) < 1 + len(wanted):
            raise ValueError(
                f"class {name!r} has {len(groups)} different examples: give at least {1 + len(wanted)}, one for each of"
                f" train and {', '.join(wanted)}"
            )
        groups = [groups[i] for i in draw.permutation(len(groups))]
        for part, share in wanted.items():
            count = max(1, round(share * len(groups)))
            taken[part] += [i for group in groups[:count] for i in group.tolist()]
            groups = groups[count:]
        taken["train"] += [i for group in groups for i in group.tolist()]
    drawn = {name: whole.rows(sorted(index)) for name, index in taken.items()}
    return {name: drawn[name] if name in drawn else found[name] for name in SPLITS}


def repeated(splits: dict[str, Examples]) -> list[tuple[str, str, Any]]:
    """Examples of `train` that stand in another split too: (split, split, example)."""
    seen = {fingerprint(item): item for item in splits["train"].items}
    return [
        ("train", name, item) for name in ("val", "test") for item in splits[name].items if fingerprint(item) in seen
    ]


def fingerprint(item: Any) -> str:
    """A hash of a file's bytes, or of a text without the space around it."""
    content = item.read_bytes() if isinstance(item, Path) else str(item).strip().encode()
    return hashlib.sha256(content).hexdigest()


def files_of(places: Sequence[str]) -> list[Path]:
    """The images among files and folders, in order.

    Raises:
      FileNotFoundError: for a path that is not there, or where there is no image.
    """
    found: list[Path] = []
    for place in map(Path, places):
        place = place.expanduser()
        if not place.exists():
            raise FileNotFoundError(f"the file {str(place)!r} does not exist")
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
        found += inside
    if not found:
        raise FileNotFoundError(f"no image in {list(places)}; suffixes are {SUFFIXES}")
    return found


def column(path: Path, name: str) -> list[str]:
    """The texts of a table's column.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a table without this column, or an empty text.
    """
    rows = _rows(_file(path))
    _has(rows, (name,), path, "--text")
    for i, row in enumerate(rows):
        if not str(row.get(name) or "").strip():
            raise ValueError(f"row {i + 1} of {str(path)!r} has an empty {name!r}: {row}")
    return [str(row[name]) for row in rows]


def _file(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"the table {str(path)!r} does not exist" if not path.exists() else f"{path} is no table"
        )
    return path


def _has(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path, options: str) -> None:
    if not rows:
        raise ValueError(f"{str(path)!r} has no rows")
    for name in columns:
        if name not in rows[0]:
            raise ValueError(f"{str(path)!r} has no column {name!r}; there are {list(rows[0])}: give {options}")


def _images(root: Path, classes: Sequence[str] | None) -> Examples:
    names, files, labels = scan(root, classes)
    return _checked(Examples("images", tuple(files), labels, names), root)


def _table(path: Path, text: str, label: str, classes: Sequence[str] | None) -> Examples:
    rows = _rows(path)
    _has(rows, (text, label), path, "--text and --label")
    for i, row in enumerate(rows):
        if not str(row.get(text) or "").strip() or row.get(label) in (None, ""):
            raise ValueError(f"row {i + 1} of {str(path)!r} has an empty {text!r} or {label!r}: {row}")
    given = [str(row[label]) for row in rows]
    names = tuple(sorted(set(given))) if classes is None else tuple(classes)
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(f"{str(path)!r} has the class {unknown[0]!r}, which is not one of {list(names)}")
    labels = np.array([names.index(name) for name in given], np.int32)
    return _checked(Examples("texts", tuple(str(row[text]) for row in rows), labels, names), path)


def _rows(path: Path) -> list[dict[str, Any]]:
    kind = path.suffix.lower()
    if kind == ".jsonl":
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        return [_object(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if kind == ".parquet":
        return _parquet(path)
    if kind not in (".csv", ".tsv"):
        raise ValueError(f"{str(path)!r} is no table that jtl reads: give one of {', '.join(TABLES)}, or a folder")
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))


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


def _checked(examples: Examples, path: Path) -> Examples:
    if len(examples.classes) < 2:
        raise ValueError(f"{str(path)!r} has the classes {list(examples.classes)}: a classifier needs two or more")
    return examples

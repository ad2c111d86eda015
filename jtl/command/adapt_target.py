"""Reads the unlabelled examples that `jtl adapt` learns from."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.command import source
from jtl.command.adapt_settings import AdaptSettings
from jtl.command.source import Examples


class Target(NamedTuple):
    """The target domain.

    Args:
      examples: the examples to learn from; their `labels` are row numbers.
      judged: labelled examples for the final table; None if it is not requested.
      labels: the labels of `examples`, for the oracle alone; None if they are not requested.
      notes: notes for the user about the folder.
    """

    examples: Examples
    judged: Examples | None
    labels: np.ndarray | None
    notes: list[str]


def column_of(settings: AdaptSettings, domain: Path) -> str | None:
    """Returns the column of files of a domain's table; None for texts, and for a folder whose partner is a table.

    Raises:
      ValueError: for a column of files if neither domain is a table.
    """
    domains = [one.expanduser() for one in (settings.source, settings.target)]
    if settings.file is not None and all(one.is_dir() and not source.in_tables(one) for one in domains):
        raise ValueError(
            f"--file {settings.file!r} is the column of a table, and {str(settings.source)!r} and"
            f" {str(settings.target)!r} are folders without tables: give a table, or leave --file out"
        )
    return settings.file if source.in_tables(domain) else None


def target_of(settings: AdaptSettings, train: Examples) -> Target:
    """Reads the examples of the target; its labels are read only if they are requested.

    Raises:
      FileNotFoundError: if the target does not exist.
      ValueError: for the source itself, a target of another kind, a single file or example, or a target without labels
        if they are requested.
    """
    path = settings.target.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"the target {str(path)!r} does not exist: give a folder or a table")
    if path.resolve() == settings.source.expanduser().resolve():
        raise ValueError(f"{str(path)!r} is the source and the target: adaptation is between two domains")
    file = column_of(settings, path)
    if train.kind != "texts" and path.is_file() and file is None:
        raise ValueError(
            f"the target {str(path)!r} is a file, and the source holds {train.kind}: give a folder, or a table of files"
            " with --file COLUMN"
        )
    parts = source.parts_of(path, tables=file is not None)
    place = parts.get("train", path)
    items: tuple[Any, ...]
    notes: list[str] = []
    if file is not None:
        kind, items = source.paths(place, file)
        if kind != train.kind:
            raise ValueError(f"{str(path)!r} lists {kind}, and {str(settings.source)!r} holds {train.kind}")
    elif train.kind == "texts":
        items = tuple(source.column(place, settings.text))
    else:
        suffixes = source.suffixes_of(train.kind)
        items, notes = tuple(source.files_of([str(place)], suffixes)), source.passed_over([str(place)], suffixes)
    labels = judged = None
    if settings.labelled or settings.oracle:
        names = {"text": settings.text, "label": settings.label, "classes": train.classes}
        found = source.read(path, **names, file=file)
        own = found.get("train", found.get("all"))
        assert own is not None
        if own.kind != train.kind:
            raise ValueError(f"{str(path)!r} holds {own.kind}, and {str(settings.source)!r} {train.kind}")
        items, labels = own.items, own.labels
        judged = found.get("test", own) if settings.labelled else None
    if len(items) < 2:
        raise ValueError(f"{str(path)!r} has {len(items)} example: the target needs two or more")
    examples = Examples(train.kind, items, np.arange(len(items), dtype=np.int32), train.classes)
    return Target(examples, judged, labels, notes)

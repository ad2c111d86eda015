"""The labels of a table that names the class of each example."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import numpy as np

from jtl.command.labels import refuse_numbers
from jtl.command.tables import Row, places
from jtl.data.pipeline import composed

Reader: TypeAlias = Callable[[Path, Sequence[Row], str, Sequence[str] | None], tuple[np.ndarray, tuple[str, ...]]]
"""A function from a table, its rows, its column of labels and the expected class names to labels and names."""


def class_labels(
    path: Path, rows: Sequence[Row], label: str, classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the index of each row's class, int32 [rows], and the names of the classes.

    Args:
      path: the table, for messages.
      rows: its rows.
      label: the column of labels.
      classes: the expected class names; None for those that are found.

    Raises:
      ValueError: for a missing number, mostly different numbers, a class that is not expected, two spellings of one
        number, fewer than two classes, or a name that is not UTF-8.
    """
    given = [composed(str(row[label]).strip()) for row in rows]  # "no" and " no" are one class
    if lost := [i for i, name in enumerate(given) if name in ("nan", "NaN")]:
        raise ValueError(
            f"{places(path, [rows[i].line for i in lost])} the {label!r} {given[lost[0]]!r}, as a missing number is"
            " written: remove these rows, or rename a class of that name"
        )
    names = tuple(sorted(set(given))) if classes is None else tuple(composed(name) for name in classes)
    if classes is None:
        refuse_numbers(given, path)
    known = set(names)
    if unknown := [i for i, name in enumerate(given) if name not in known]:
        raise ValueError(
            f"{places(path, [rows[i].line for i in unknown])} the class {given[unknown[0]]!r}, which is not one of"
            f" {list(names)}"
        )
    _one_number_each(names, path)
    refuse_few(names, path)
    return np.array([names.index(name) for name in given], np.int32), names


def refuse_few(classes: Sequence[str], path: Path) -> None:
    """Refuses fewer than two classes, and names that no file can hold.

    Raises:
      ValueError: naming the classes, or the one that is not UTF-8.
    """
    for name in classes:
        if name != name.encode("utf-8", "replace").decode():
            raise ValueError(
                f"{str(path)!r} has the class {name!r}, which is not UTF-8, so no file can hold it: rename it"
            )
    if len(classes) < 2:
        raise ValueError(f"{str(path)!r} has the classes {list(classes)}: a classifier needs two or more")


def _one_number_each(classes: Sequence[str], path: Path) -> None:
    numbers: dict[Decimal, str] = {}  # as floats, whole numbers beyond 2⁵³ would be one
    for name in classes:
        if re.fullmatch(r"[+-]?\d+(\.\d*)?", name) and numbers.setdefault(Decimal(name), name) != name:
            raise ValueError(
                f"{str(path)!r} has the labels {numbers[Decimal(name)]!r} and {name!r}, which are one number: write it"
                " the same way everywhere, or use words as class names"
            )

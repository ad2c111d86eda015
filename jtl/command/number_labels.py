"""The labels of a table that gives a number for each example."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jtl.command.tables import Row, places

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A decimal number. Python's `float` would take `nan`, `infinity` and `1_000` too."""


def number_labels(
    path: Path, rows: Sequence[Row], label: str, classes: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the number of each row, float64 [rows], and the name of their column as the only name.

    Args:
      path: the table, for messages.
      rows: its rows.
      label: the column of labels.
      classes: the name in the network that is evaluated, which need not be that of the column.

    Raises:
      ValueError: for a label that is no number, is NaN, or is too large for float32, naming its row and value.

    Example:
      >>> from jtl.command.tables import Row
      >>> number_labels(Path("films.csv"), [Row({"stars": " 4.5"}, 2), Row({"stars": 3}, 3)], "stars")
      (array([4.5, 3. ]), ('stars',))
    """
    del classes
    given = [str(row[label]).strip() for row in rows]
    if wrong := [i for i, text in enumerate(given) if not NUMBER.fullmatch(text)]:
        comma = ": write decimals with a point" if NUMBER.fullmatch(given[wrong[0]].replace(",", ".", 1)) else ""
        raise ValueError(
            f"{places(path, [rows[i].line for i in wrong])} the {label!r} {given[wrong[0]]!r}, which is no number that"
            f" --task regression could predict{comma or '; to predict classes, leave --task out'}"
        )
    found = np.array([float(text) for text in given])
    if large := np.flatnonzero(np.abs(found) > np.finfo(np.float32).max).tolist():
        raise ValueError(
            f"{places(path, [rows[i].line for i in large])} the {label!r} {given[large[0]]!r}, which is too large for"
            " 32 bits: give another unit"
        )
    return found, (label,)

"""Formats tables as Markdown, as plain text, or as a rich table on a terminal."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.weights.mapping.coverage import table as aligned


class Spread(NamedTuple):
    """The mean of several runs and their sample standard deviation (0 for a single run)."""

    mean: float
    std: float

    def percent(self) -> str:
        """Formats both in percent, such as `93.1 ± 0.8`."""
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f}"


class Table(NamedTuple):
    """A title, the names of the columns, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def spread(values: Any) -> Spread:
    """Computes `mean = Σ v / n` and `std = sqrt(Σ (v − mean)² / (n − 1))`.

    Raises:
      ValueError: for no values, or a value that is not finite.

    Example:
      >>> import jtl
      >>> jtl.report.spread([0.9, 0.92, 0.94]).percent()
      '92.0 ± 2.0'
    """
    found = np.asarray(values, np.float64).reshape(-1)
    if not found.size or not np.isfinite(found).all():
        raise ValueError(f"values={found.tolist()}: give at least one, and finite numbers only")
    return Spread(float(found.mean()), float(found.std(ddof=1)) if found.size > 1 else 0.0)


def markdown(table: Table) -> str:
    """Formats a table in Markdown, with `|` in cells escaped, and columns aligned for readers of the source.

    Example:
      >>> import jtl
      >>> table = jtl.report.Table("test accuracy", ("way", "percent"), [("dann", "93.1")])
      >>> jtl.report.markdown(table).splitlines()
      ['**test accuracy**', '', '| way  | percent |', '|------|---------|', '| dann | 93.1    |']
    """
    _check(table)
    cells = [[cell.replace("|", r"\|") for cell in row] for row in _lines(table)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = ["| " + " | ".join(row) + " |" for row in padded]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"**{table.title}**", "", lines[0], rule, *lines[1:]])


def plain(table: Table) -> str:
    """Formats a table in aligned columns, for logs and pipes."""
    _check(table)
    return f"{table.title}\n{aligned(_lines(table))}"


def show(table: Table, file: Any = None) -> None:
    """Prints a table, with rich on a terminal, and in plain lines elsewhere.

    Example:
      >>> import jtl
      >>> jtl.report.show(jtl.report.Table("test accuracy", ("way", "percent"), [("dann", "93.1")]))
      test accuracy
      way   percent
      ----  -------
      dann  93.1
    """
    file = sys.stdout if file is None else file
    if not file.isatty():
        print(plain(table), file=file, flush=True)
        return
    from rich.console import Console
    from rich.table import Table as Rich
    from rich.text import Text

    _check(table)
    # As `Text`, because rich would take a name such as [PAD] for a style and drop it.
    drawn = Rich(title=Text(table.title), title_justify="left")
    for name in table.columns:
        drawn.add_column(Text(name))
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    Console(file=file).print(drawn)


def _check(table: Table) -> None:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"the row {row} has {len(row)} cells; the columns are {table.columns}")


def _lines(table: Table) -> list[list[str]]:
    """Returns the names of the columns and the rows, with line breaks within cells removed."""
    return [[" ".join(cell.splitlines()) for cell in row] for row in (table.columns, *table.rows)]

"""The coverage of a conversion: what happened to every tensor of the file and every parameter of the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

COUNTER = ".num_batches_tracked"
"""PyTorch's name for the count of batches in a BatchNorm, from which nothing is computed."""


class Loaded(NamedTuple):
    """One parameter and its origin."""

    path: str
    name: str
    transform: str
    file_shape: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Coverage:
    """The coverage of one conversion; its `str()` is a table, with PyTorch's counters of batches in one line.

    Args:
      loaded: parameters taken from the file.
      reinit: parameters that keep their initial values, as asked.
      unused: tensors of the file that were not read, as asked or by the name table.
    """

    loaded: list[Loaded] = field(default_factory=list)
    reinit: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line of counts."""
        return (
            f"{len(self.loaded)} parameters loaded, {len(self.reinit)} re-initialised on request, "
            f"{len(self.unused)} tensors of the file unused on request"
        )

    def __str__(self) -> str:
        rows = [("parameter", "shape", "from", "shape", "layout")]
        rows += [(x.path, _shape(x.shape), x.name, _shape(x.file_shape), x.transform) for x in self.loaded]
        rows += [(path, "", "(re-initialised)", "", "") for path in self.reinit]
        counters = [name for name in self.unused if name.endswith(COUNTER)]
        rows += [("(unused)", "", name, "", "") for name in self.unused if len(counters) < 2 or name not in counters]
        rows += [("(unused)", "", f"*{COUNTER}, {len(counters)} of them", "", "")] if len(counters) > 1 else []
        return table(rows) + "\n" + self.summary


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text with aligned columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])

"""Figures as PNG files, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.paths import local

LEGIBLE = 60
"""Up to so many classes a confusion matrix has room for numbers."""
NAMED = 150
"""Up to so many classes it has room for their names, in small print."""
LONG = 32
"""Characters of the longest name that is drawn whole; longer ones leave no room for what they name."""


def confusion(matrix: Any, classes: Sequence[str], path: str | Path, *, title: str = "") -> Path:
    """Draws a confusion matrix: rows are the true classes, columns the predicted ones.

    A cell's shade is the square root of its share of its row, so that few mistakes among many examples are seen; its
    number is the count; more than `LEGIBLE` classes have no numbers, more than `NAMED` no names, for which there is no
    room.

    Args:
      matrix: [classes, classes] of counts, as `jtl.metrics.confusion_matrix` gives them.
      classes: their names.
      path: of the PNG.
      title: above it.

    Returns:
      The path.

    Raises:
      ValueError: where the matrix is not square, has not as many rows as there are names, or none, or is not finite.

    Example:
      >>> import tempfile, jtl
      >>> jtl.report.confusion([[9, 1], [2, 8]], ["ant", "bee"], tempfile.mkdtemp() + "/confusion.png").name
      'confusion.png'
    """
    counts, classes = counted(matrix, classes), [short(name) for name in classes]
    depth = np.sqrt(shares(counts))
    legible = len(classes) <= LEGIBLE
    # Without names the figure has the width of a page, so that the numbers beside it stay legible there.
    side = 1.5 + (0.5 * len(classes) if legible else 0.15 * len(classes) if len(classes) <= NAMED else 8)
    figure = blank((side + 0.5, side))
    axes = figure.add_subplot()
    axes.imshow(depth, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count and legible:
            colour = "white" if depth[row, column] > 0.6 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    if len(classes) <= NAMED:
        small = {} if legible else {"fontsize": 6}
        upright = len(classes) > 4 or max(map(len, classes)) > 8
        axes.set_xticks(range(len(classes)), classes, parse_math=False, rotation=90 if upright else 0, **small)
        axes.set_yticks(range(len(classes)), classes, parse_math=False, **small)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    return save(figure, path)


def counted(matrix: Any, classes: Sequence[str]) -> np.ndarray:
    """A confusion matrix as an array; see `confusion` for what it refuses."""
    counts = np.asarray(matrix)
    if counts.shape != (len(classes),) * 2 or not len(classes):
        raise ValueError(f"a matrix of shape {counts.shape} for {len(classes)} classes; it must be square, a row each")
    if not np.isfinite(counts).all():
        raise ValueError(f"a matrix with {int((~np.isfinite(counts)).sum())} values that are not finite: give counts")
    return counts


def short(name: str, most: int = LONG) -> str:
    """A name as it can be drawn: without its middle where it is long, and with escapes of what is not UTF-8.

    Example:
      >>> short("photographs", 7)
      'pho…phs'
    """
    name, half = name.encode("utf-8", "backslashreplace").decode(), (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def shares(matrix: Any) -> np.ndarray:
    """Each row of a confusion matrix over its sum; a row of zeros stays."""
    counts = np.asarray(matrix, np.float64)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def curves(
    series: Mapping[str, Any],
    path: str | Path,
    *,
    title: str = "",
    ylabel: str = "loss",
    log: bool = False,
    x: Any = None,
    xlabel: str = "step",
) -> Path:
    """Draws learning curves, one line a name; where there are several runs, their mean in a band of one deviation.

    On a logarithmic axis the band ends at the lowest run, so it stays above zero where the runs do.

    Args:
      series: name -> values [steps] or [runs, steps].
      path: of the PNG.
      title: above it.
      ylabel: beside it.
      log: a logarithmic vertical axis.
      x: the horizontal axis, a number for each value of a series, drawn logarithmically, as learning rates; None for
        the number of the step.
      xlabel: below it.

    Returns:
      The path.

    Raises:
      ValueError: for no series, one that is neither [steps] nor [runs, steps], of another length than x, or without
        a number above zero for a logarithmic axis.

    Example:
      >>> import tempfile, jtl
      >>> jtl.report.curves({"loss": [3.0, 2.0, 1.5]}, tempfile.mkdtemp() + "/curves.png").name
      'curves.png'
    """
    if not series:
        raise ValueError("no series to draw: give at least one name with its values")
    figure = blank((6.4, 4.0))
    axes = figure.add_subplot()
    lines = []
    for name, values in series.items():
        try:
            runs = np.atleast_2d(np.asarray(values, np.float64))
        except (ValueError, TypeError) as error:  # runs of several lengths, or no numbers
            raise ValueError(f"series {name!r} is no array of numbers: give [steps], or [runs, steps]") from error
        if runs.ndim != 2 or not runs.size:
            raise ValueError(f"series {name!r} has shape {np.shape(values)}; give [steps] or [runs, steps]")
        mean, steps = runs.mean(0), np.arange(1, runs.shape[1] + 1) if x is None else np.asarray(x, np.float64)
        if steps.shape != mean.shape:
            raise ValueError(
                f"series {name!r} has {len(mean)} values, and x is of shape {steps.shape}; give one for each"
            )
        if log and (mean <= 0).any() and not (mean > 0).any():
            raise ValueError(f"series {name!r} has no number above zero, as a logarithmic axis needs: give log=False")
        (line,) = axes.plot(steps, mean)
        lines.append(line)
        if len(runs) > 1:
            std = runs.std(0, ddof=1)
            low = np.maximum(mean - std, runs.min(0)) if log else mean - std  # a logarithm has no room below zero
            axes.fill_between(steps, low, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xscale="linear" if x is None else "log", yscale="log" if log else "linear")
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)
    legend(axes, lines, list(series))
    return save(figure, path)


def legend(axes: Any, drawn: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """A legend of names as they are: with `$` and without an underscore's meaning, both of which matplotlib reads."""
    for text in axes.legend(drawn, [short(name) for name in names], **options).get_texts():
        text.set_parse_math(False)


def blank(size: tuple[float, float]) -> Any:
    """A figure of so many inches, width before height.

    Not pyplot's: that picks a display, and keeps every figure alive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | Path) -> Path:
    """Writes a figure as PNG; returns where."""
    path = local(path, "path")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    return path

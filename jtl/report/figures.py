"""Draws figures as PNG files, without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.paths import local

LEGIBLE = 60
"""Up to this many classes, a confusion matrix has room for numbers."""
NAMED = 150
"""Up to this many classes, a confusion matrix has room for their names, in small print."""
LONG = 32
"""The most characters of a name that is drawn in full; longer names would leave no room for the figure."""


def confusion(matrix: Any, classes: Sequence[str], path: str | Path, *, title: str = "") -> Path:
    """Draws a confusion matrix: rows are the true classes, columns the predicted ones.

    A cell's shade is the square root of its share of its row, so that few mistakes among many examples are visible; its
    number is the count. Matrices of more than `LEGIBLE` classes have no numbers, and of more than `NAMED` no names.

    Args:
      matrix: counts [classes, classes], as `jtl.metrics.confusion_matrix` returns them.
      classes: the names of the classes.
      path: the PNG file to write.
      title: the title above the figure.

    Returns:
      The path.

    Raises:
      ValueError: if the matrix is not square, is empty, is not finite, or its size differs from the number of names.

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
    """Checks a confusion matrix and returns it as an array; see `confusion` for the errors."""
    counts = np.asarray(matrix)
    if counts.shape != (len(classes),) * 2 or not len(classes):
        raise ValueError(f"a matrix of shape {counts.shape} for {len(classes)} classes; it must be square, a row each")
    if not np.isfinite(counts).all():
        raise ValueError(f"a matrix with {int((~np.isfinite(counts)).sum())} values that are not finite: give counts")
    return counts


def short(name: str, most: int = LONG) -> str:
    """Shortens a name for drawing: a long one loses its middle, and what is not UTF-8 is escaped.

    Example:
      >>> short("photographs", 7)
      'pho…phs'
    """
    name, half = name.encode("utf-8", "backslashreplace").decode(), (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def shares(matrix: Any) -> np.ndarray:
    """Divides each row of a confusion matrix by its sum; a row of zeros stays zero."""
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
    """Draws learning curves, one line per name; several runs become their mean, in a band of one standard deviation.

    On a logarithmic axis the band ends at the lowest run, so it stays above zero if the runs do.

    Args:
      series: name -> values [steps] or [runs, steps].
      path: the PNG file to write.
      title: the title above the figure.
      ylabel: the label of the vertical axis.
      log: whether the vertical axis is logarithmic.
      x: positions on the horizontal axis, one per value of a series, drawn logarithmically, such as learning rates;
        None for the number of the step.
      xlabel: the label of the horizontal axis.

    Returns:
      The path.

    Raises:
      ValueError: for no series, or a series that is neither [steps] nor [runs, steps], differs from x in length, or has
        no number above zero on a logarithmic axis.

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
    """Adds a legend with names as they are, although matplotlib gives `$` and a leading underscore a meaning."""
    for text in axes.legend(drawn, [short(name) for name in names], **options).get_texts():
        text.set_parse_math(False)


def blank(size: tuple[float, float]) -> Any:
    """Returns an empty figure of a size (width, height) in inches.

    It does not use pyplot, which would choose a display, and keep every figure alive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | Path) -> Path:
    """Writes a figure as PNG and returns its path."""
    path = local(path, "path")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    return path

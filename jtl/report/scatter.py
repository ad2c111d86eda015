"""Draws predicted numbers against the true ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.report.figures import blank, legend, save, short


def scatter(
    points: Mapping[str, tuple[Any, Any]], path: str | Path, *, name: str = "", title: str = ""
) -> Path:  # fmt: skip
    """Draws one dot per example, its true number to the right and its prediction upwards; a perfect one on the line.

    Args:
      points: name of some examples -> (true numbers, predictions), each [examples].
      path: the PNG file to write.
      name: the name of the number, for the axes.
      title: the title above the figure.

    Returns:
      The path.

    Raises:
      ValueError: for no points, lengths that differ, or numbers that are not finite.

    Example:
      >>> import tempfile
      >>> from jtl.report.scatter import scatter
      >>> scatter({"test": ([1.0, 2.0], [1.1, 1.8])}, tempfile.mkdtemp() + "/scatter.png", name="stars").name
      'scatter.png'
    """
    found = {key: tuple(np.asarray(one, np.float64) for one in pair) for key, pair in points.items()}
    if not found:
        raise ValueError("no points to draw: give true numbers and predictions of some examples")
    for key, (true, predicted) in found.items():
        if true.ndim != 1 or true.shape != predicted.shape or not true.size:
            raise ValueError(f"points {key!r}: {true.shape} true numbers and {predicted.shape} predictions")
        if not (np.isfinite(true).all() and np.isfinite(predicted).all()):
            raise ValueError(f"points {key!r} hold numbers that are not finite")
    figure = blank((5.6, 5.2))
    axes = figure.add_subplot()
    drawn = [
        axes.scatter(true, predicted, s=14, alpha=0.6, linewidths=0) for true, predicted in found.values()
    ]  # fmt: skip
    every = np.concatenate([one for pair in found.values() for one in pair])
    low, high = float(every.min()), float(every.max())
    axes.plot([low, high], [low, high], color="#888888", linewidth=1, zorder=0)
    axes.set_xlabel(f"true {short(name)}".strip(), parse_math=False)
    axes.set_ylabel(f"predicted {short(name)}".strip(), parse_math=False)
    axes.set_title(title, parse_math=False)
    legend(axes, drawn, list(found))
    return save(figure, path)

"""Draws a ranking as dots with horizontal error bars."""

from collections.abc import Mapping
from pathlib import Path

from jtl.report.figures import blank, save, short


def bars(values: Mapping[str, tuple[float, float]], path: str | Path, *, xlabel: str = "", title: str = "") -> Path:
    """Draws one dot per name with an error bar, the first name at the top.

    Args:
      values: name -> (value, half the width of its interval); a half width of 0 draws no bar.
      path: the PNG file to write.
      xlabel: the label of the horizontal axis.
      title: the title above the figure.

    Returns:
      The path.

    Raises:
      ValueError: for no values.

    Example:
      >>> import tempfile
      >>> from jtl.report.bars import bars
      >>> bars({"mcc": (0.9, 0.02), "dann": (0.8, 0.0)}, tempfile.mkdtemp() + "/bars.png").name
      'bars.png'
    """
    if not values:
        raise ValueError("no values to draw: give at least one name with its value")
    figure = blank((6.4, 1.0 + 0.32 * len(values)))
    axes = figure.add_subplot()
    for place, (value, half) in enumerate(values.values()):
        axes.errorbar(value, place, xerr=half or None, fmt="o", color="#1f77b4", capsize=3)
    axes.set_yticks(range(len(values)), [short(name, 60) for name in values], parse_math=False, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_title(title, parse_math=False, fontsize=10)
    return save(figure, path)

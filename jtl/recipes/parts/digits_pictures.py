"""The demo's figures: test images and accuracies, and features before and after adaptation."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.recipes.parts.comparison import Comparison, gains, interval
from jtl.recipes.parts.digits_shift import Seen
from jtl.report.figures import blank, save

GREY, BLUE, PALE = "#9aa0a6", "#1f77b4", "#a6c8e0"


def summary(stages: Sequence[Comparison], images: Any, labels: Any, path: Path) -> Path:
    """Draws test images above one bar per way: mean accuracy over seeds with its 95 % interval.

    If the interval of a paired gain is above zero, the bar is blue and has the gain above it; baselines are grey.

    Args:
      stages: the stages of the demo.
      images: [images, 8, 8, 1], of which the first of each class is drawn.
      labels: [images].
      path: the path of the PNG.

    Returns:
      The path.
    """
    figure = blank((9.6, 5.4))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 3.6))
    classes, first = np.unique(labels, return_index=True)
    for axes, name, row in zip(top.subplots(1, len(classes)), classes, first, strict=True):
        axes.imshow(np.asarray(images[row])[..., 0], cmap="gray", vmin=-1, vmax=1, interpolation="bicubic")
        axes.set_title(str(name), fontsize=9)
        axes.set_axis_off()
    widths = [len(stage.accuracy) for stage in stages]
    grid = bottom.subplots(1, len(stages), width_ratios=widths, sharey=True)
    for axes, stage in zip(np.atleast_1d(grid), stages, strict=True):
        gained = gains(stage)
        for place, (name, values) in enumerate(stage.accuracy.items()):
            mean, half = interval(values)
            half = half if np.isfinite(half) else 0.0
            shown = name in gained and gained[name].shown
            axes.bar(place, mean, yerr=half, color=BLUE if shown else PALE if name in gained else GREY, capsize=3)
            if shown:
                text = f"{gained[name].mean:+.0f}"
                axes.text(place, mean + half + 1.5, text, ha="center", fontsize=9, fontweight="bold", color=BLUE)
        names = [textwrap.fill(name, 11, break_on_hyphens=False) for name in stage.accuracy]
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_title(textwrap.fill(stage.title, 38), fontsize=8)
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(grid)[0].set_ylabel("test accuracy, %")
    return save(figure, path)


def adaptation(seen: Seen, path: Path) -> Path:
    """Draws features of upright and turned test images before and after adaptation, in their first two directions.

    The directions are the principal components of a panel's features; colours are the digits.

    Args:
      seen: the features of stage (b).
      path: the path of the PNG.

    Returns:
      The path.
    """
    import matplotlib
    from matplotlib.lines import Line2D

    figure = blank((9.6, 4.8))
    figure.suptitle("Features of test digits, upright (dots) and turned (crosses)", fontsize=11)
    for axes, name in zip(figure.subplots(1, len(seen.turned)), seen.turned, strict=True):
        both = np.concatenate([seen.upright[name], seen.turned[name]])
        both = both - both.mean(0)
        flat = both @ np.linalg.svd(both, full_matrices=False)[2][:2].T
        for marker, points in zip("ox", np.split(flat, 2), strict=True):
            style = {"linewidths": 0} if marker == "o" else {"linewidths": 0.9}
            axes.scatter(*points.T, c=seen.y, cmap="tab10", vmin=0, vmax=9, s=16, marker=marker, alpha=0.8, **style)
        axes.set_title("before: trained on upright digits" if name == "source only" else f"after: {name}")
        axes.set_xticks([])
        axes.set_yticks([])
    colours = matplotlib.colormaps["tab10"]
    dots = [Line2D([], [], color=colours(d), marker="o", linestyle="", label=str(d)) for d in range(10)]
    figure.legend(handles=dots, loc="outside lower center", ncols=10, frameon=False, fontsize=8)
    return save(figure, path)

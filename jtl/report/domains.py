"""Draws features of several domains, such as before and after adaptation, as points in a plane."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.report.figures import blank, legend, save

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728")


def domains(panels: Mapping[str, Mapping[str, Any]], path: str | Path, *, rows: int = 500, seed: int = 0) -> Path:
    """Draws features along their first two principal directions, in one panel per title and one colour per domain.

    The directions are computed from all rows of a panel, with the same number of rows for each domain.

    Args:
      panels: title -> name of the domain -> features [rows, width].
      path: the PNG file to write.
      rows: at most this many rows of each domain, drawn at random.
      seed: the seed of the draw.

    Returns:
      The path.

    Raises:
      ValueError: for no panel, a domain without rows or with a number that is not finite, or widths that differ within
        a panel.

    Example:
      >>> import tempfile, jtl, numpy as np
      >>> draw = np.random.default_rng(0)
      >>> here, there = draw.normal(size=(30, 5)), draw.normal(2.0, size=(20, 5))
      >>> found = jtl.report.domains({"before": {"source": here, "target": there}}, tempfile.mkdtemp() + "/f.png")
      >>> found.name
      'f.png'
    """
    if not panels:
        raise ValueError("no panel to draw: give at least one title with its domains")
    figure = blank((4.2 * len(panels), 4.0))
    for axes, (title, named) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        drawn = {
            name: axes.scatter(*points.T, s=6, alpha=0.6, color=colour, linewidths=0)
            for (name, points), colour in zip(plane(named, rows, seed).items(), COLOURS * len(named), strict=False)
        }
        if axes is figure.axes[0]:
            legend(axes, list(drawn.values()), list(drawn), loc="best", fontsize=8, markerscale=2)
        axes.set_title(title, parse_math=False, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    return save(figure, path)


def plane(named: Mapping[str, Any], rows: int = 500, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the coordinates [rows, 2] of each domain along the first two principal directions of all domains.

    Raises:
      ValueError: for a domain without rows or with numbers that are not finite, or widths that differ.
    """
    found = {name: np.asarray(features, np.float64) for name, features in named.items()}
    shapes = {name: features.shape for name, features in found.items()}
    if any(len(s) != 2 or not s[0] or s[1] != next(iter(shapes.values()))[-1] for s in shapes.values()):
        raise ValueError(f"features of shapes {shapes}: give [rows, width] of one width, with at least one row each")
    for name, features in found.items():
        if not np.isfinite(features).all():
            row = int(np.argmin(np.isfinite(features).all(1)))
            raise ValueError(f"the features of {name!r} are not finite, those of row {row} first")
    draw, size = np.random.default_rng(seed), min(rows, *(len(features) for features in found.values()))
    drawn = {name: f[draw.permutation(len(f))[:size]] for name, f in found.items()}
    joint = np.concatenate([*drawn.values()])
    centre = joint.mean(0)
    _, _, directions = np.linalg.svd(joint - centre, full_matrices=False)
    two = np.zeros((joint.shape[1], 2))
    two[:, : len(directions[:2])] = directions[:2].T
    return {name: (f - centre) @ two for name, f in drawn.items()}

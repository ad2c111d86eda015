"""Predicted numbers against the true ones, as a picture."""

import numpy as np
import pytest
from PIL import Image

from jtl.report.scatter import scatter


def test_better_predictions_lie_on_the_diagonal(tmp_path):
    """Dots beside it darken the corners, and dots on it do not."""
    true, found = np.linspace(0, 1, 30), []
    for name, predicted in (("on", true), ("off", true[::-1])):
        path = scatter({"a_b": (true, predicted)}, tmp_path / f"{name}.png", name="$x_1", title="$")
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        found.append(np.argwhere(pixels[..., 2] - pixels[..., 0] > 60))  # the first colour is blue
    on, off = (np.corrcoef(points.T)[0, 1] for points in found)  # rows count downwards
    assert on < -0.7
    assert off > 0.7


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({}, "no points"),
        ({"test": ([1.0], [1.0, 2.0])}, r"'test': \(1,\) true numbers and \(2,\)"),
        ({"test": ([], [])}, "'test'"),
        ({"test": ([1.0], [np.nan])}, "not finite"),
    ],
)
def test_what_cannot_be_drawn_is_named(points, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        scatter(points, tmp_path / "x.png")

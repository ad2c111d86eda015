"""Boxes on a grid of cells: the targets of each cell, overlaps, and non-maximum suppression."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jtl.metrics.detection import box_iou

NEAR = 1.5
"""The distance in cells from the centre of a box within which cells must detect it (the centre sampling of FCOS)."""
_MOST = 10.0  # the largest logarithm of a side in cells, because the exponential of larger ones soon overflows


class Targets(NamedTuple):
    """The targets of the cells of a batch.

    Args:
      boxes: [batch, cells, 4] in pixels.
      classes: int [batch, cells], -1 where there is no object.
    """

    boxes: Array
    classes: Array


def centres(height: int, width: int, stride: int) -> np.ndarray:
    """Returns the centres of a grid's cells in pixels, (x, y), float32 [height * width, 2], row by row."""
    y, x = np.mgrid[:height, :width]
    return (np.stack([x, y], -1).reshape(-1, 2).astype(np.float32) + 0.5) * stride


def targets(
    boxes: Float[Array, "batch boxes 4"], classes: Integer[Array, "batch boxes"], cells: np.ndarray, stride: int
) -> Targets:
    """Assigns a box to each cell that lies in it and near its centre, or holds its centre; the smallest of several.

    Args:
      boxes: boxes in pixels, x0, y0, x1, y1; NaN in padding has no effect.
      classes: the class of each box; boxes with a class below 0, or without area, are padding.
      cells: from `centres`.
      stride: pixels per cell.
    """
    if not boxes.shape[1]:  # argmin needs at least one box
        boxes, classes = jnp.zeros((len(boxes), 1, 4), boxes.dtype), jnp.full((len(boxes), 1), -1)
    there = (classes >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    boxes = jnp.where(there[..., None], boxes, 0)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    at = jnp.asarray(cells)[None, :, None]  # [1, cells, 1, 2], to broadcast with [batch, 1, boxes, 2]
    inside = ((at > boxes[:, None, :, :2]) & (at < boxes[:, None, :, 2:])).all(-1)
    away = middle[:, None] - at
    near = (jnp.abs(away) <= NEAR * stride).all(-1)
    holds = ((away >= -stride / 2) & (away < stride / 2)).all(-1)
    fits = there[:, None] & ((inside & near) | holds)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[:, None]
    best = jnp.where(fits, area, jnp.inf).argmin(-1)
    found = jnp.take_along_axis(boxes, best[..., None], 1)
    labels = jnp.take_along_axis(classes, best, 1)
    return Targets(found, jnp.where(fits.any(-1), labels, -1))


def placed(raw: Float[Array, "batch cells 4"], cells: Any, stride: int) -> Float[Array, "batch cells 4"]:
    """Returns boxes in pixels from the network's output: offsets from the cells' centres, and logarithms of the sides.

    Args:
      raw: (dx, dy, log w, log h), all in units of cells.
      cells: from `centres`.
      stride: pixels per cell.
    """
    middle = jnp.asarray(cells)[None] + raw[..., :2] * stride
    half = jnp.exp(jnp.minimum(raw[..., 2:], _MOST)) * (stride / 2)
    return jnp.concatenate([middle - half, middle + half], -1)


def giou(a: Float[Array, "*dims 4"], b: Float[Array, "*dims 4"]) -> Float[Array, "*dims"]:
    """Returns generalised IoU, `|A∩B|/|A∪B| − |C∖(A∪B)|/|C|`, with C the smallest box around both, in (−1, 1].

    Args:
      a: boxes x0, y0, x1, y1.
      b: as many boxes.

    Rezatofighi et al., Generalized Intersection over Union, 2019, arXiv 1902.09630.
    """

    def area(low: Array, high: Array) -> Array:
        return jnp.maximum(high - low, 0).prod(-1)

    shared = area(jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:]))
    around = area(jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - shared
    # For boxes without area the divisors are 1, because a divisor of 0, or a tiny one, has infinite gradients.
    return shared / jnp.where(union > 0, union, 1) - (around - union) / jnp.where(around > 0, around, 1)


def suppressed(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, overlap: float) -> np.ndarray:
    """Selects boxes by non-maximum suppression: none overlaps a better one of its class.

    Args:
      boxes: [boxes, 4].
      scores: [boxes].
      classes: int [boxes]; boxes of different classes do not suppress each other.
      overlap: the largest intersection over union of two boxes that are kept.

    Returns:
      The indices of the boxes to keep, by descending score, int [kept].
    """
    order = np.argsort(-scores, kind="stable")
    clash = (box_iou(boxes, boxes) > overlap) & (classes[:, None] == classes[None])
    kept: list[int] = []
    for i in order:
        if not clash[i, kept].any():
            kept.append(int(i))
    return np.array(kept, int)

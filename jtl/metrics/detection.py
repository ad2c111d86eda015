"""Mean average precision of detected boxes, over whole data sets on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Boxes(NamedTuple):
    """Boxes of one image.

    Args:
      boxes: [boxes, 4] in pixels, x0, y0, x1, y1.
      classes: int [boxes].
      scores: [boxes], the confidence of detected boxes; ones for true boxes.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union, `|a ∩ b| / |a ∪ b|`, of every pair of boxes from two sets: [n, 4] and [m, 4] to [n, m].

    Example:
      >>> import numpy as np
      >>> from jtl.metrics.detection import box_iou
      >>> box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
      [[0.333, 0.0]]
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def mean_average_precision(
    predicted: Sequence[Boxes], true: Sequence[Boxes], *, iou: Sequence[float] = (0.5,)
) -> dict[str, float]:
    """The area under the precision-recall curve of ranked detections, averaged over classes and thresholds.

    The detections of a class are taken in order of falling score, over all images. Of the true boxes of its image and
    class, consider the one that a detection overlaps most. The detection is right if this box is not taken yet and the
    overlap reaches the threshold. Precision at a recall is its maximum from there on, and is summed up at every step of
    recall, as in PASCAL VOC from 2010 on.

    Args:
      predicted: the detections of each image.
      true: the true boxes of each image; only the classes that occur here count.
      iou: thresholds in (0, 1]; COCO's are `np.arange(0.5, 1, 0.05)`.

    Returns:
      "map", and one "map/<threshold>" per threshold.

    Raises:
      ValueError: for different numbers of images, no true box at all, a score that is NaN, or thresholds out of range.

    Example:
      >>> import numpy as np, jtl
      >>> box = np.array([[0.0, 0.0, 4.0, 4.0]])
      >>> true = jtl.metrics.Boxes(box, np.array([0]), np.ones(1))
      >>> found = jtl.metrics.Boxes(box + 1, np.array([0]), np.array([0.9]))
      >>> jtl.metrics.mean_average_precision([found], [true], iou=[0.3, 0.5])
      {'map': 0.5, 'map/0.3': 1.0, 'map/0.5': 0.0}

    Everingham et al., The PASCAL Visual Object Classes Challenge, 2010; Lin et al., Microsoft COCO, 2014, arXiv
    1405.0312.
    """
    if len(predicted) != len(true):
        raise ValueError(f"detections of {len(predicted)} images and true boxes of {len(true)}: give both of each")
    if not np.ndim(iou) or not len(iou) or not all(0 < t <= 1 for t in iou):
        raise ValueError(f"iou={iou}: give a list of overlaps, each in (0, 1]")
    for i, image in enumerate(predicted):
        if np.isnan(np.asarray(image.scores, np.float64)).any():
            raise ValueError(f"the detections of image {i} have a score that is NaN, which has no rank")
    classes = sorted({int(c) for image in true for c in image.classes})
    if not classes:
        raise ValueError("no image has a true box: there is nothing to find")
    each = {float(t): float(np.mean([_average(predicted, true, c, t) for c in classes])) for t in iou}
    return {"map": float(np.mean(list(each.values()))), **{f"map/{t:g}": value for t, value in each.items()}}


def _average(predicted: Sequence[Boxes], true: Sequence[Boxes], label: int, threshold: float) -> float:
    wanted = [np.asarray(image.boxes).reshape(-1, 4)[np.asarray(image.classes) == label] for image in true]
    ranked = [
        (float(score), i, box)
        for i, image in enumerate(predicted)
        for box, c, score in zip(image.boxes, image.classes, image.scores, strict=True)
        if c == label
    ]
    ranked.sort(key=lambda one: -one[0])
    taken = [np.zeros(len(boxes), bool) for boxes in wanted]
    right = np.zeros(len(ranked))
    for place, (_, image, box) in enumerate(ranked):
        overlap = box_iou(box[None], wanted[image])[0]
        best = int(overlap.argmax()) if len(overlap) else -1
        if best >= 0 and overlap[best] >= threshold and not taken[image][best]:
            taken[image][best] = True
            right[place] = 1
    hits = right.cumsum()
    precision = hits / np.arange(1, len(ranked) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * right).sum() / sum(map(len, wanted)))

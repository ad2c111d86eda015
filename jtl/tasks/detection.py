"""Detection of objects in an image as boxes, by one dense stage without anchors."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jtl.heads import Reads, reading
from jtl.metrics.detection import Boxes
from jtl.model import Model, from_linen
from jtl.nn.decoder import FusedMaps
from jtl.reads import whole
from jtl.tasks import boxes as geometry
from jtl.tasks.task import Task

_PRIOR = 0.01  # initial probability of an object at a cell; a larger one would let the many empty cells dominate


def detection(
    classes: int,
    *,
    stride: int,
    width: int = 64,
    score: float = 0.3,
    overlap: float = 0.5,
    reads: Reads = whole("last"),
) -> Task:
    """Makes a detection task: every cell of a map predicts the probability of each class, and a box.

    A box is predicted by the offset of its centre and its sides. The loss of an image is
    `L = Σ_cells focal(p, class) / n + Σ_objects (1 − GIoU(box, target)) / n`, where n is the number of cells that must
    detect an object: cells in its box and near its centre, and the cell that holds the centre. If a cell has several
    objects, the smallest counts.

    Args:
      classes: the number of classes.
      stride: pixels per cell of the finest map that the head reads.
      width: channels of the decoder.
      score: the least probability of a decoded box, unless `decode` is given another.
      overlap: the largest intersection over union of two decoded boxes of the same class.
      reads: one map or several, such as `whole("stage3", "stage4")`.

    Returns:
      A task with labels {"boxes": [batch, boxes, 4] in pixels x0, y0, x1, y1, "classes": int [batch, boxes]}; images
      with fewer boxes are padded with class -1 (`jtl.data.arrays(..., ignore=-1)`), or with boxes without area. Its
      loss terms are "class" and "box", NaN for an image with an unknown class. `decode(output)` returns the
      `jtl.metrics.Boxes` of each image, `jtl.tasks.true_boxes(y)` the true ones, and
      `jtl.metrics.mean_average_precision` compares both: give it `decode(output, score=0.01)`, because a
      precision-recall curve ends at the least score.

    Raises:
      ValueError: for numbers out of range.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> task = jtl.tasks.detection(2, stride=16)
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=task.head)
      >>> x = jnp.zeros((1, 32, 32, 3))
      >>> output, _ = net.apply(net.init(jax.random.key(0), x), x, train=False)
      >>> len(task.decode(output.output)[0].boxes)
      0

    Tian et al., FCOS, 2019, arXiv 1904.01355; Zhou et al., Objects as Points, 2019, arXiv 1904.07850; Lin et al., Focal
    Loss for Dense Object Detection, 2017, arXiv 1708.02002.
    """
    if classes < 1 or width < 1 or stride < 1:
        raise ValueError(f"classes={classes}, width={width}, stride={stride}: sizes are at least 1")
    least = score

    def decode(output: Any, score: float = least) -> list[Boxes]:
        _check(score, overlap)
        return boxes_of(output, stride, score, overlap)

    _check(score, overlap)

    def loss(output: Any, y: Any) -> dict[str, Array]:
        return detection_loss(output, y, stride)

    return Task(_head(classes, width, reads), loss, {}, decode)


def detection_loss(output: Any, y: Any, stride: int) -> dict[str, Array]:
    """Computes the loss terms of each image, "class", `Σ_cells focal / n`, and "box", `Σ_objects (1 − GIoU) / n`.

    Args:
      output: {"classes": logits [batch, h, w, classes], "boxes": [batch, h, w, 4]}.
      y: {"boxes": [batch, boxes, 4], "classes": int [batch, boxes]}; see `detection`.
      stride: pixels per cell.

    Returns:
      {"class": [batch], "box": [batch]}; NaN for an image with a class beyond the last one, or a NaN in a box that is
      not padding.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> output = {"classes": jnp.zeros((1, 2, 2, 3)), "boxes": jnp.zeros((1, 2, 2, 4))}
      >>> y = {"boxes": jnp.array([[[0.0, 0.0, 16.0, 16.0]]]), "classes": jnp.array([[2]])}
      >>> loss = jax.eval_shape(lambda: jtl.tasks.detection_loss(output, y, stride=16))
      >>> {name: term.shape for name, term in loss.items()}
      {'box': (1,), 'class': (1,)}
    """
    logits, raw, cells = _cells(output, stride)
    logits, raw = (a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in (logits, raw))
    boxes = jnp.asarray(y["boxes"]).astype(raw.dtype)
    classes = jnp.asarray(y["classes"])
    wanted = geometry.targets(boxes, classes, cells, stride)
    there = wanted.classes >= 0
    count = jnp.maximum(there.sum(-1), 1)
    hot = (wanted.classes[..., None] == jnp.arange(logits.shape[-1]).reshape(1, 1, -1)).astype(logits.dtype)
    focal = optax.losses.sigmoid_focal_loss(logits, hot, alpha=0.25, gamma=2.0).sum((1, 2))
    unlike = 1 - geometry.giou(geometry.placed(raw, cells, stride), wanted.boxes)
    terms = {"class": focal / count, "box": jnp.where(there, unlike, 0).sum(-1) / count}
    wrong = (classes >= 0) & ((classes >= logits.shape[-1]) | jnp.isnan(boxes).any(-1))
    return {name: jnp.where(wrong.any(-1), jnp.nan, values) for name, values in terms.items()}


def boxes_of(output: Any, stride: int, score: float, overlap: float) -> list[Boxes]:
    """Returns the boxes of each image of at least probability `score`, after non-maximum suppression."""
    logits, raw, cells = _cells(output, stride)
    placed = np.asarray(geometry.placed(raw, cells, stride))
    found = []
    for z, boxes in zip(np.asarray(logits, np.float64), placed, strict=True):
        probability = 1 / (1 + np.exp(-z))
        cell, label = np.nonzero(probability >= score)
        scores = probability[cell, label]
        kept = geometry.suppressed(boxes[cell], scores, label, overlap)
        found.append(Boxes(boxes[cell][kept], label[kept], scores[kept]))
    return found


def true_boxes(y: Any) -> list[Boxes]:
    """Returns the labels of a data set, as `jtl.collect` returns them, as boxes without padding.

    Example:
      >>> import numpy as np, jtl
      >>> y = {"boxes": np.array([[[0, 0, 4, 4], [0, 0, 0, 0]]]), "classes": np.array([[2, -1]])}
      >>> jtl.tasks.true_boxes(y)[0].classes.tolist()
      [2]
    """
    found = []
    for boxes, classes in zip(np.asarray(y["boxes"]), np.asarray(y["classes"]), strict=True):
        there = (classes >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(-1)
        found.append(Boxes(boxes[there], classes[there], np.ones(there.sum())))
    return found


def _check(score: float, overlap: float) -> None:
    if not (0 < score < 1 and 0 <= overlap <= 1):
        raise ValueError(f"score={score}, overlap={overlap}: the probability lies in (0, 1), the overlap in [0, 1]")


def _cells(output: Any, stride: int) -> tuple[Array, Array, np.ndarray]:
    """Returns logits [batch, cells, classes], raw boxes [batch, cells, 4], and the cells' centres."""
    logits, raw = jnp.asarray(output["classes"]), jnp.asarray(output["boxes"])
    batch, height, width, classes = logits.shape
    cells = geometry.centres(height, width, stride)
    return logits.reshape(batch, -1, classes), raw.reshape(batch, -1, 4), cells


def _head(classes: int, width: int, reads: Reads) -> Model:
    return reading(from_linen(_Dense(classes, width)), reads)


class _Dense(nn.Module):
    classes: int
    width: int

    @nn.compact
    def __call__(self, x, train: bool):
        del train  # training and evaluation do not differ
        x = FusedMaps(self.width, name="fused")(x)
        rare = nn.initializers.constant(-math.log((1 - _PRIOR) / _PRIOR))
        small = nn.initializers.normal(0.01)
        return {
            "classes": nn.Dense(self.classes, kernel_init=small, bias_init=rare, name="out")(x),
            "boxes": nn.Dense(4, kernel_init=small, name="boxes")(x),
        }

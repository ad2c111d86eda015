"""Semantic segmentation: one class per pixel."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jtl import losses, metrics
from jtl.heads import Reads
from jtl.nn.decoder import map_decoder, resized
from jtl.reads import whole
from jtl.tasks.task import Task

IGNORE = 255
"""The label of pixels that do not count, such as borders of objects."""


def segmentation(
    classes: int,
    *,
    width: int = 64,
    reads: Reads = whole("last"),
) -> Task:
    """Makes a segmentation task: softmax cross-entropy, `−mean_i log p_i(y_i)`, over pixels i whose label is not 255.

    The head outputs logits at the resolution of the finest map that it reads. Loss and metrics resize them bilinearly
    to the label's size.

    Args:
      classes: the number of classes, at most 255.
      width: channels of the decoder.
      reads: one map or several, such as `whole("stage2", "stage4")`.

    Returns:
      A task with integer labels y [batch, height, width], and metrics "accuracy" of pixels and "iou", the mean
      intersection over union of the classes. `decode(output, size)` returns classes [rows, height, width].

    Raises:
      ValueError: for more than 255 classes.

    Example:
      >>> import numpy as np, jtl
      >>> jtl.tasks.segmentation(2).decode(np.eye(2)[np.array([[[0, 1]]])], (2, 4)).tolist()
      [[[0, 0, 1, 1], [0, 0, 1, 1]]]

    Long et al., Fully Convolutional Networks for Semantic Segmentation, 2014, arXiv 1411.4038.
    """
    if classes > IGNORE:
        raise ValueError(f"classes={classes}: at most {IGNORE}, whose number is the label to ignore")

    def decode(output: Any, size: tuple[int, int]) -> np.ndarray:
        # Row by row: the logits of a whole data set at full size may not fit in memory.
        return np.concatenate([np.asarray(resized(jnp.asarray(row)[None], size).argmax(-1)) for row in output])

    iou = metrics.mean_iou(classes)
    judged: dict[str, Any] = {
        "accuracy": partial(_at_pixels, metrics.accuracy),
        "iou": iou._replace(sums=lambda output, y, weights: iou.sums(resized(output, y.shape[1:]), y, weights)),
    }
    return Task(
        map_decoder(classes, width, reads=reads), partial(_at_pixels, losses.cross_entropy), judged, decode, IGNORE
    )


def _at_pixels(function: Any, output: Array, y: Any) -> Array:
    y = jnp.asarray(y)
    return function(resized(output, (y.shape[1], y.shape[2])), y)

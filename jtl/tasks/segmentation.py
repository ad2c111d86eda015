"""A class for each pixel."""

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
"""The label of pixels that do not count, as borders of objects."""


def segmentation(
    classes: int,
    *,
    width: int = 64,
    reads: Reads = whole("last"),
) -> Task:
    """Softmax cross-entropy, `−mean_i log p_i(y_i)`, over every pixel i whose label is not 255.

    The head gives logits at the resolution of the finest map that it reads. Loss and metric resize them bilinearly to
    the label's size.

    Args:
      classes: how many, at most 255.
      width: channels of the decoder.
      reads: one map or several, as `whole("stage2", "stage4")`.

    Returns:
      A task with labels y [batch, height, width] of integers, and metrics "accuracy" of pixels and "iou", the mean
      over classes of intersection over union. `decode(output, size)` gives classes [rows, height, width].

    Raises:
      ValueError: for more classes than there are labels.

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

"""Resizes maps of labels, with one label per pixel."""

import numpy as np


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes by nearest neighbour: each pixel gets the label of the pixel on which its centre falls.

    Args:
      labels: integers [..., height, width].
      size: (height, width) of the result.

    Returns:
      The same dtype, [..., *size].

    Raises:
      ValueError: for a size below 1, or labels that are not integers [..., height, width].

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess.label_maps import resize_labels
      >>> resize_labels(np.array([[0, 255], [1, 2]]), (2, 4)).tolist()
      [[0, 0, 255, 255], [1, 1, 2, 2]]
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.ndim < 2:
        raise ValueError(f"labels of shape {labels.shape} and dtype {labels.dtype}: give integers [..., height, width]")
    if min(size) < 1:
        raise ValueError(f"size={size}: both sides are at least 1")
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[..., rows[:, None], columns[None]]

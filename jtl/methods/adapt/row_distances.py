"""Distances of rows of features in float64, for methods that need no training."""

import numpy as np


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`‖a_i − b_j‖²`, [rows of a, rows of b].

    Through one matrix product of rows about a common centre, because far from 0 the rounding would be that of their
    lengths.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.adapt.row_distances import squared_distances
      >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
      [[25.0, 0.0]]
    """
    centre = b.mean(0)[None]
    a, b = a - centre, b - centre
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)

"""Distances of rows of features in float64, for methods that need no training."""

import numpy as np

MOST_ROWS = 2000
"""The most rows of which a median distance is computed, because all pairs of 10,000 rows would take gigabytes."""


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`‖a_i − b_j‖²`, [rows of a, rows of b].

    It takes one matrix product. The rows are centred first, because far from 0 the rounding error grows with their
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


def gaussian_kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """`exp(−‖a_i − b_j‖² / (2 σ²))`, [rows of a, rows of b].

    Args:
      a: rows.
      b: rows.
      width: σ.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.adapt.row_distances import gaussian_kernel
      >>> gaussian_kernel(np.array([[0.0]]), np.array([[0.0], [2.0]]), 1.0).round(3).tolist()
      [[1.0, 0.135]]
    """
    return np.exp(squared_distances(a, b) / (-2 * width**2))


def median_distance(rows: np.ndarray) -> float:
    """The median distance between two rows that differ: a kernel width that fits the scale of the features.

    If there are more than `MOST_ROWS` rows, it is computed on that many, drawn with a fixed seed.

    Raises:
      ValueError: if all rows are equal.

    Example:
      >>> import numpy as np
      >>> from jtl.methods.adapt.row_distances import median_distance
      >>> median_distance(np.array([[0.0], [0.0], [3.0]]))
      3.0
    """
    if len(rows) > MOST_ROWS:
        rows = np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False)
    each = squared_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    # Two equal rows are at a distance of rounding.
    apart = each[each > 1e-14 * each.max()]
    if not len(apart):
        raise ValueError(f"all {len(rows)} rows of features are equal, so no width of a kernel fits: give one")
    return float(np.sqrt(np.median(apart)))

"""Nearest-neighbour weights: a source row counts as often as it is the nearest to a row of the target."""

import numpy as np
from jaxtyping import ArrayLike, Float

from jtl.checked import within
from jtl.methods.adapt.on_features import pair
from jtl.methods.adapt.row_distances import squared_distances

PART = 2**24
"""The most distances that are held at a time."""


def nearest_neighbour_weights(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others columns"],
    *,
    smoothing: float = 1.0,
) -> np.ndarray:
    """The weights `w_i = n (c_i + s) / (m + n s)`, c_i the number of target rows whose nearest source row is i.

    n is the number of source rows and m that of target rows. The cells of the source's rows, the places nearer to this
    row than to any other, hold about equally many rows of the source, so the target's rows in a cell estimate the ratio
    of the target's density to the source's. The weights correct a covariate shift: the inputs are distributed
    differently in the target, and the labels given an input are not. There is nothing to fit and no kernel, but the
    distances depend on the units of the features: standardise these first.

    Args:
      source: features. Equal rows share their cell's target rows evenly.
      target: features.
      smoothing: s, the target rows that are added to each cell (Laplace smoothing). With 0, a row that is the nearest
        to no target row has the weight 0. The larger s is, the closer all weights are to 1.

    Returns:
      Weights [rows], float64, with a mean of 1.

    Raises:
      ValueError: for features that are not finite matrices of one width, fewer than two rows of a domain, or a
        smoothing that is negative or not finite.

    Example:
      >>> import numpy as np, jtl
      >>> source, target = np.array([[0.0], [0.0], [0.0], [5.0]]), np.array([[1.0], [4.0]])
      >>> jtl.alignments.nearest_neighbour_weights(source, target, smoothing=0.0).round(3).tolist()
      [0.667, 0.667, 0.667, 2.0]

    Loog, Nearest Neighbor-Based Importance Weighting, 2012, arXiv 2102.02291.
    """
    within("[0, inf)", smoothing=smoothing)
    xs, xt = pair(source, target)
    places, which, sizes = np.unique(xs, axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    most = max(1, PART // len(places))
    nearest = [squared_distances(xt[at : at + most], places).argmin(1) for at in range(0, len(xt), most)]
    counts = np.bincount(np.concatenate(nearest), minlength=len(places)) / sizes
    return len(xs) * (counts[which] + smoothing) / (len(xt) + len(xs) * smoothing)

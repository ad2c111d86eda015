"""Optimal transport of extracted features: the source mapped by the barycentres of a plan."""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jtl.checked import positive, whole, within
from jtl.methods.adapt.on_features import further, pair
from jtl.methods.adapt.row_distances import squared_distances
from jtl.methods.adapt.transport_plan import transport_plan


def transport_map(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others columns"],
    labels: Int[ArrayLike, "rows"] | None = None,
    *,
    regularisation: float = 0.05,
    class_regularisation: float = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 20_000,
) -> np.ndarray:
    """Maps each row of the source to its barycentre in the target under a transport plan, `n Σ_j γ_ij x_j`.

    The plan minimises `Σ γ_ij ‖x_i − x_j‖² + ε Σ γ_ij log γ_ij + η Σ_j Σ_c ‖γ(I_c, j)‖₂`, where I_c are the source's
    rows of class c: the last term makes a target row receive its mass from rows of one class. See
    `jtl.methods.adapt.transport_plan`. Memory and the time per iteration grow with n · m: 5,000 rows of each domain
    take 1.5 GB and seconds; with η, or with ε = 0, they take minutes.

    Args:
      source: features.
      target: features.
      labels: labels of the source, for η only; rows with negative labels belong to no class.
      regularisation: ε divided by the mean squared distance. With 0 the plan is exact: an assignment if both domains
        have the same number of rows, and otherwise a linear program, which takes seconds for 500 rows and minutes for
        1,000. The larger ε is, the closer the mapped rows are to the target's mean, and the fewer iterations are
        needed. The distance between the domains' means is part of the mean squared distance: if it is large, give a
        smaller number, or centre the features of each domain.
      class_regularisation: η divided by the same mean; it needs labels and a positive ε. With 0, labels are not used.
      tolerance: the largest total error of an entropic plan's row sums, of a mass of 1.
      max_iterations: the largest number of Sinkhorn iterations; a RuntimeWarning tells if they do not suffice.

    Returns:
      Features [rows, width] of the source, float64; the target's stay as they are. `out_of_sample` maps further rows of
      the source.

    Raises:
      ValueError: for features that are not finite matrices of one width, fewer than two rows, numbers out of range, a
        different number of labels, or a class regularisation without labels or vice versa.

    Example:
      >>> import numpy as np, jtl
      >>> x = np.array([[0.0], [1.0], [2.0]])
      >>> jtl.alignments.transport_map(x, x[::-1] + 9, regularisation=0.0).ravel().tolist()
      [9.0, 10.0, 11.0]
      >>> jtl.alignments.transport_map(x, x + 9, regularisation=1e9).round(6).ravel().tolist()
      [10.0, 10.0, 10.0]

    Courty et al., Optimal Transport for Domain Adaptation, 2017, arXiv 1507.00504.
    """
    within("[0, inf)", regularisation=regularisation, class_regularisation=class_regularisation)
    positive(tolerance=tolerance)
    whole(1, max_iterations=max_iterations)
    xs, xt = pair(source, target)
    if class_regularisation and (labels is None or not regularisation):
        raise ValueError(
            f"class_regularisation={class_regularisation}: it needs labels of the source and a regularisation above 0, "
            f"which is {regularisation}"
        )
    if labels is not None and not class_regularisation:
        raise ValueError("labels are given with class_regularisation=0: give both, or neither")
    y = None if labels is None else _labels(labels, len(xs))
    # A distance of the means adds the same to the cost of every plan, of which an exact one would lose the rest.
    own, other = (x if regularisation else x - x.mean(0)[None] for x in (xs, xt))
    plan = transport_plan(
        squared_distances(own, other),
        y,
        regularisation=float(regularisation),
        class_regularisation=float(class_regularisation),
        tolerance=float(tolerance),
        max_iterations=int(max_iterations),
    )
    return plan / plan.sum(1)[:, None] @ xt


def out_of_sample(
    rows: Float[ArrayLike, "more width"],
    source: Float[ArrayLike, "rows width"],
    mapped: Float[ArrayLike, "rows width"],
) -> np.ndarray:
    """Maps further rows of the source, moving each as its nearest source row was moved: `x + T(x_i) − x_i`.

    Args:
      rows: features that were not used for the map.
      source: the features that were used for it.
      mapped: T of the source, the result of `transport_map`.

    Returns:
      Features [more, width], float64. A row of the source itself gets its place in `mapped`, up to rounding.

    Raises:
      ValueError: for features that are not finite matrices of one width, or another number of mapped rows.

    Example:
      >>> import numpy as np, jtl
      >>> x, mapped = np.array([[0.0], [10.0]]), np.array([[1.0], [20.0]])
      >>> jtl.alignments.out_of_sample(np.array([[2.0], [9.0]]), x, mapped).ravel().tolist()
      [3.0, 19.0]

    Ferradans et al., Regularized Discrete Optimal Transport, 2014, arXiv 1307.5551, whose map of colours Courty et al.
    extend so.
    """
    xs, image = pair(source, mapped)
    more = further(rows, xs.shape[1])
    if len(xs) != len(image):
        raise ValueError(f"{len(xs)} rows of the source and {len(image)} mapped ones: give as many")
    nearest = squared_distances(more, xs).argmin(1)
    return more + image[nearest] - xs[nearest]


def _labels(labels: Any, rows: int) -> np.ndarray:
    y = np.asarray(labels)
    if y.shape != (rows,) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels of shape {y.shape} and type {y.dtype}: give one integer for each of {rows} rows")
    return y

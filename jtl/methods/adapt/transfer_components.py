"""Transfer component analysis: directions of a kernel's feature space in which the domains have one mean."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from jtl.checked import positive, whole
from jtl.methods.adapt.on_features import further, pair
from jtl.methods.adapt.row_distances import gaussian_kernel, median_distance


def transfer_components(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others columns"],
    dim: int,
    *,
    kernel: Literal["rbf", "linear"] = "rbf",
    width: float | None = None,
    mu: float = 1.0,
    others: Sequence[Float[ArrayLike, "_ columns"]] = (),
) -> tuple[np.ndarray, ...]:
    """Maps the rows to `K W`, where W minimises `tr(Wᵀ K L K W) + μ tr(Wᵀ W)` so that the covariance of the rows is I.

    K is the kernel matrix of all rows, the source's first. `tr(Wᵀ K L K W)` is the squared distance between the means
    of the two domains, with `L = e eᵀ`, `e = (1/n, …, −1/m, …)`. The covariance is `Wᵀ K H K W / (n + m)`, H the
    centring of all rows; the paper's W is smaller by `√(n + m)`. So the columns of W are the leading solutions of
    `K H K w = λ (K L K + μ I) w`. The time grows with the cube of the number of rows: 1,000 take seconds.

    Args:
      source: features.
      target: features.
      dim: number of components, at most the rank of the centred kernel.
      kernel: "rbf", `exp(−‖x − x'‖² / 2σ²)`, or "linear", `xᵀ x'`, which depends on the origin: centre the rows first.
      width: σ, for "rbf" only; None for the median distance between two rows, computed on at most 2,000 of them.
      mu: μ. The smaller it is, the closer are the means of the domains. Its scale depends on the kernel's.
      others: further features of either domain, such as test rows; W does not depend on them.

    Returns:
      Features [rows, dim] and [others, dim], float64, and those of `others` after them. The components are
      uncorrelated over all rows, and have the variance 1 there. The signs are free.

    Raises:
      ValueError: for features that are not finite matrices of one width, numbers out of range, an unknown kernel, or a
        width for a linear one.

    Example:
      >>> import numpy as np, jtl
      >>> x = np.array([[-1.0, 0.0], [1.0, 0.0], [-1.0, 1.0], [1.0, 1.0]])
      >>> shifted = x + [0.0, 9.0]
      >>> a, b, c = jtl.alignments.transfer_components(x, shifted, 1, kernel="linear", mu=0.1, others=[x[:1]])
      >>> np.abs(a).round(2).ravel().tolist(), np.abs(b).round(2).ravel().tolist(), bool(np.allclose(a[0], c))
      ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], True)

    Pan et al., Domain Adaptation via Transfer Component Analysis, 2011.
    """
    whole(1, dim=dim)
    positive(mu=mu)
    if kernel not in ("rbf", "linear") or (kernel == "linear" and width is not None):
        raise ValueError(f"kernel={kernel!r}, width={width}: give 'rbf', or 'linear', which has no width")
    xs, xt = pair(source, target)
    rows = np.concatenate([xs, xt])
    more = [further(x, rows.shape[1]) for x in others]
    sigma = 1.0
    if kernel == "rbf":
        sigma = median_distance(rows) if width is None else width
        positive(width=sigma)

    def k(x: np.ndarray) -> np.ndarray:
        return gaussian_kernel(x, rows, sigma) if kernel == "rbf" else x @ rows.T

    found = k(rows)
    w = _leading(found, np.repeat([1 / len(xs), -1 / len(xt)], [len(xs), len(xt)]), int(dim), float(mu))
    z = found @ w
    return z[: len(xs)], z[len(xs) :], *(k(x) @ w for x in more)


def _leading(k: np.ndarray, e: np.ndarray, dim: int, mu: float) -> np.ndarray:
    """W, through the singular vectors of `B^(−1/2) K H`, `B = K L K + μ I`, which is a number and one direction."""
    v = k @ e
    length = float(v @ v)
    shrink = (1 - 1 / np.sqrt(1 + length / mu)) / length if length > 0 else 0.0

    def root(a: np.ndarray) -> np.ndarray:
        return (a - shrink * np.outer(v, v @ a)) / np.sqrt(mu)

    left, sizes, _ = np.linalg.svd(root(k - k.mean(1)[:, None]))
    rounding = len(k) * np.finfo(float).eps * max(sizes[0], np.abs(k).max() / np.sqrt(mu))
    most = int((sizes > rounding).sum())
    if dim > most:
        raise ValueError(f"dim={dim}: the kernel of these {len(k)} rows has {most} components")
    return root(left[:, :dim]) / sizes[:dim] * np.sqrt(len(k))

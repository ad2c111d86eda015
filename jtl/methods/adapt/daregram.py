"""DARE-GRAM: the inverse Gram matrices of two domains' features become equal, for regression."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jtl.checked import within
from jtl.methods.terms import clean, features_of, on_views
from jtl.methods.views import Views
from jtl.objective import Objective
from jtl.typing import Schedule

SMALL = 1e-6
"""Singular values, and columns of an inverse, below this fraction of the largest count as zero."""


def daregram(
    weight: float | Schedule = 1.0,
    *,
    angle: float = 0.05,
    scale: float = 0.001,
    threshold: float = 0.9,
    feature: str = "pooled",
    name: str = "daregram",
) -> Objective:
    """The alignment `λ · daregram_loss` of a feature of `source` and `target`.

    Args:
      weight: λ, a number or a function of the step.
      angle: α, the weight of the angles; the authors use 0.05.
      scale: β, the weight of the eigenvalues, which grow with the number of rows; theirs is 0.001 for 36 rows.
      threshold: the inverse keeps the largest eigenvalues up to this share of their sum; the authors use 0.9.
      feature: the name of the backbone's feature, [batch, width].
      name: name of the term.

    Returns:
      An alignment for `adapt`. With microbatches it is the mean of the term of each part.

    Raises:
      ValueError: for numbers out of range; while tracing, for a view or feature that is missing.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((64,)), head=jtl.heads.linear(1))
      >>> loss = lambda out, y: jtl.losses.mse(out[:, 0], y)
      >>> objective = jtl.adapt(net, loss, [jtl.alignments.daregram()], metrics={})

    Nejjar et al., DARE-GRAM: Unsupervised Domain Adaptation Regression by Aligning Inverse Gram Matrices, 2023, arXiv
    2303.13325.
    """
    _check(angle, scale, threshold)

    def value(views: Views) -> Array:
        (fs, ms), (ft, mt) = (features_of(views, of, feature, name) for of in ("source", "target"))
        return daregram_loss(fs, ft, ms, mt, angle=angle, scale=scale, threshold=threshold)

    return on_views(value, weight, name)


def daregram_loss(
    source: Float[ArrayLike, "rows width"],
    target: Float[ArrayLike, "others width"],
    source_mask: Any = None,
    target_mask: Any = None,
    *,
    angle: float = 0.05,
    scale: float = 0.001,
    threshold: float = 0.9,
) -> Array:
    """`α mean_i (1 − cos θ_i) + β ‖λ_s − λ_t‖ / k`, θ_i the angle between column i of `G_s⁺` and column i of `G_t⁺`.

    `G = Σ_i [1, f_i] [1, f_i]ᵀ` is the Gram matrix of least squares with an intercept, λ its k largest eigenvalues, and
    G⁺ its inverse on their eigenvectors. As in the authors' code, k is one less than the number of largest eigenvalues
    whose share of the sum is at most the threshold. It is 1 at least, and the larger k serves both domains.

    A domain's G is scaled to the mean number of rows of both, so that rows that are repeated change nothing. A column
    that is 0 in both domains has the angle 0, and one that is 0 in one of them has the cosine 0, without a gradient.
    Derivatives are those of the inverse of k eigenvalues. The authors' are those of torch's `pinv`, in which the other
    eigenvalues are zeros, so they differ. Only a gap at the cut, between one that is kept and one that is not, can make
    ours infinite. There `1 / g` of the relative gap is replaced by `g / (g² + ε²)`, where ε² is the floating-point
    precision. The loss is 0 if a domain has no rows.

    Args:
      source: features.
      target: features.
      source_mask: rows of the source that count.
      target_mask: those of the target.
      angle: α.
      scale: β.
      threshold: the share of the sum of eigenvalues that is kept.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.daregram import daregram_loss
      >>> f = jnp.array([[3.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
      >>> round(float(daregram_loss(f, f[::-1])), 4)
      0.0
      >>> round(float(daregram_loss(f, 2 * f, angle=0.0, scale=1.0)), 2)  # 54 more, over k = 1
      54.0
    """
    _check(angle, scale, threshold)
    (fs, ms), (ft, mt) = clean(source, source_mask), clean(target, target_mask)
    number = (ms.sum() + mt.sum()) / 2
    rows, sizes, singular = [], [], []
    for f, kept in ((fs, ms), (ft, mt)):
        each = jnp.where(kept, jnp.sqrt(number / jnp.maximum(kept.sum(), 1)), 0.0).astype(f.dtype)[:, None]
        a = jnp.concatenate([each, each * f], 1)
        sizes.append(jnp.maximum(jnp.linalg.norm(jax.lax.stop_gradient(a)), 1e-30))
        rows.append(a / sizes[-1])  # eigenvalues sum up to 1
        singular.append(jnp.linalg.svd(jax.lax.stop_gradient(rows[-1]), full_matrices=False)[1])
    k = jnp.maximum(*(jnp.maximum((jnp.cumsum(s**2) <= threshold).sum() - 1, 1) for s in singular))
    (vs, inverse), (vt, other) = (_inverse(a, k) for a in rows)
    vs, vt = (jnp.pad(v * size**2, (0, fs.shape[1] + 1 - len(v))) for v, size in zip((vs, vt), sizes, strict=True))
    gap = vs - vt
    # That of equal eigenvalues is of rounding, and has a gradient of any direction.
    gap = jnp.where(jnp.abs(gap) > 10 * jnp.finfo(gap.dtype).eps * jnp.maximum(vs[0], vt[0]), gap, 0.0)
    value = angle * _apart(inverse, other).mean() + scale * _root((gap**2).sum()) / k
    return jnp.where(ms.any() & mt.any(), value, 0.0)


@jax.custom_jvp
def _inverse(a: Array, k: Array) -> tuple[Array, Array]:
    """The k largest eigenvalues of `G = AᵀA`, zeros behind them, and the inverse of G on their eigenvectors."""
    return _parts(a, k)[0]


def _parts(a: Array, k: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """What `_inverse` gives, and U, s, V of A, all eigenvalues, which of them there are, and their inverses."""
    u, s, vt = jnp.linalg.svd(a, full_matrices=False)
    there = (jnp.arange(len(s)) < k) & (s > SMALL * s[0])
    inverse = jnp.where(there, 1 / jnp.where(there, s**2, 1.0), 0.0)
    found = jnp.matmul(vt.T * inverse[None], vt, precision="highest")
    return (jnp.where(there, s**2, 0.0), found), (u, s, vt.T, s**2, there, inverse)


@_inverse.defjvp
def _along(primals: Any, tangents: Any) -> Any:
    """Of `f(G)`, f the inverse or 0, `V (Φ ∘ VᵀĠV) Vᵀ` with `Φ_ij = (f_i − f_j) / (λ_i − λ_j)`."""
    found, (u, s, v, squares, there, inverse) = _parts(*primals)
    da = tangents[0]
    with jax.default_matmul_precision("highest"):
        inner = s[:, None] * (u.T @ da @ v)
        inner = inner + inner.T  # VᵀĠV
        beyond = (da.T @ u - v @ (v.T @ da.T @ u)) * s[None]  # what ĠV has outside of the span of V, where λ is 0
        size = jnp.maximum(squares[:, None] + squares[None], SMALL**2)
        gap = (squares[:, None] - squares[None]) / size
        cut = inverse[:, None] * jnp.where(there[None], 0.0, gap / (gap**2 + jnp.finfo(s.dtype).eps) / size)
        both = inverse[:, None] * inverse[None]  # of two that are kept no gap is left: (1/λ_i − 1/λ_j) / (λ_i − λ_j)
        side = (beyond * inverse[None] ** 2) @ v.T
        change = v @ ((cut + cut.T - both) * inner) @ v.T + side + side.T
    return found, (jnp.where(there, jnp.diagonal(inner), 0.0), change)


def _apart(a: Array, b: Array) -> Array:
    """`1 − cos` of the columns, as half the squared distance of unit vectors, which has the digits of small angles."""
    (a, some), (b, others) = _unit(a), _unit(b)
    return jnp.where(some & others, ((a - b) ** 2).sum(0) / 2, jnp.where(some | others, 1.0, 0.0))


def _unit(a: Array) -> tuple[Array, Array]:
    squares = (a**2).sum(0)
    there = squares > SMALL**2 * squares.max()
    return jnp.where(there[None], a / jnp.sqrt(jnp.where(there, squares, 1.0))[None], 0.0), there


def _root(square: Array) -> Array:
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _check(angle: float, scale: float, threshold: float) -> None:
    within("[0, inf)", angle=angle, scale=scale)
    within("(0, 1)", threshold=threshold)

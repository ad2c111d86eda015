"""LAME: the predictions of a batch are corrected by those of near rows, and no parameter changes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from jtl import checked
from jtl.methods.terms import clean, near_rows, own_squared_distances
from jtl.model import Model, Variables
from jtl.typing import Batch

AFFINITIES = ("knn", "rbf", "linear")
FLOOR = 1e-3
"""The smallest width of `rbf`, because smaller distances between unit vectors are rounding errors in float32."""


def lame(
    net: Model, *, affinity: str = "knn", neighbours: int = 5, steps: int = 100
) -> Callable[[Variables, Batch], Array]:
    """Predicts by `min_z Σ_i KL(z_i ‖ q_i) − ½ Σ_ij w_ij z_i·z_j` over a batch, q the network's own predictions.

    Neighbouring rows are drawn to the same class. This helps if a stream shows the rows of a class together, as a video
    does. On batches of independent rows it can do harm, and `rbf` and `linear`, in which all rows interact, can give
    all of them one class. Nothing is kept between batches, which may differ in size. Features are computed with the
    source's running statistics. To combine it with another method, call `laplacian_adjusted` on that method's logits.

    Args:
      net: `jtl.network(backbone=..., head=...)` whose head reads one vector per row, with logits [batch, classes].
      affinity: how w is computed; see `laplacian_adjusted`.
      neighbours: k; the authors try 1, 3 and 5.
      steps: the largest number of steps.

    Returns:
      `predict(variables, batch) -> logits` [batch, classes], with z = softmax(logits); jit it. Rows that the mask of a
      batch leaves out change no other row.

    Raises:
      ValueError: for an unknown affinity, or numbers below 1; while tracing, for a head that does not read one vector
        per row, or an output that is not [batch, classes].

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> x = jnp.ones((4, 16, 16, 3))
      >>> predict = jax.jit(jtl.test_time.lame(net, neighbours=3))
      >>> predict(net.init(jax.random.key(0), x), {"x": x}).shape
      (4, 3)

    Boudiaf et al., Parameter-free Online Test-time Adaptation, 2022, arXiv 2201.05718.
    """
    _check(affinity, neighbours, steps)

    def predict(variables: Variables, batch: Batch) -> Array:
        out, _ = net.apply(variables, batch["x"], train=False)
        if getattr(out.read, "ndim", None) != 2 or jnp.ndim(out.output) != 2:
            raise ValueError(
                "lame needs a head that reads one vector a row, and logits [batch, classes]; this one reads"
                f" {jax.tree.map(jnp.shape, out.read)} and gives {jax.tree.map(jnp.shape, out.output)}"
            )
        mask = batch.get("mask")
        return laplacian_adjusted(out.output, out.read, mask, affinity=affinity, neighbours=neighbours, steps=steps)

    return predict


def laplacian_adjusted(
    logits: Float[ArrayLike, "batch classes"],
    features: Float[ArrayLike, "batch width"],
    mask: Shaped[ArrayLike, " batch"] | None = None,
    *,
    affinity: str = "knn",
    neighbours: int = 5,
    steps: int = 100,
) -> Float[Array, "batch classes"]:
    """The fixed point of `z_i ← softmax(log q_i + Σ_j w_ij z_j)` from `z = q = softmax(logits)`, as log-probabilities.

    Each step minimises a bound of `Σ_i KL(z_i ‖ q_i) − ½ Σ_ij w_ij z_i·z_j`, in which the concave second part is
    replaced by its tangent. So no step raises it where w is symmetric and positive semi-definite, as `rbf` and
    `linear` are; `knn` is neither. The ½ is that of the authors' steps.

    With `f` scaled to length 1, `w_ij` is

    - `knn`: 1 where j is one of the k nearest other rows of i, else 0;
    - `rbf`: `exp(−‖f_i − f_j‖² / 2σ²)`, σ the mean distance of a row to its k-th nearest other row. Theirs counts the
      row itself as the first of k;
    - `linear`: `f_i·f_j`.

    The steps end where no probability moves by more than 1e-6. The authors' code adds 1e-10 to q; here it is q itself.

    Args:
      logits: of the network.
      features: of the same rows.
      mask: the rows that count; the others get equal logits and change no other row.
      affinity: see above.
      neighbours: k; of a smaller batch all other rows.
      steps: the most that are made.

    Raises:
      ValueError: for another affinity, numbers below 1, or logits and features that are not of the same rows.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> logits, features = jnp.array([[2.0, 0.0], [0.0, 0.1]]), jnp.array([[1.0, 0.0], [1.0, 0.1]])
      >>> jtl.test_time.laplacian_adjusted(logits, features, neighbours=1).argmax(1).tolist()
      [0, 0]

    Boudiaf et al., Parameter-free Online Test-time Adaptation, 2022, arXiv 2201.05718.
    """
    _check(affinity, neighbours, steps)
    shapes = jnp.shape(logits), jnp.shape(features)
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][0]:
        raise ValueError(f"logits {shapes[0]} and features {shapes[1]}: give one row of both for each example")
    (z, kept), (f, _) = clean(logits, mask), clean(features, mask)
    both = kept[:, None] & kept[None]
    w = jnp.where(both, _affinity(_unit(f), kept, affinity, neighbours), 0.0).astype(z.dtype)
    own = jax.nn.log_softmax(z)

    def moved(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, now, _ = state
        pull = jnp.matmul(w, jnp.exp(now), precision="highest")
        return step + 1, jax.nn.log_softmax(own + pull), now

    def moves(state: tuple[Array, Array, Array]) -> Array:
        step, now, before = state
        return (step < steps) & ((step == 0) | (jnp.abs(jnp.exp(now) - jnp.exp(before)).max() > 1e-6))

    return jax.lax.while_loop(moves, moved, (jnp.zeros((), jnp.int32), own, own))[1]


def _affinity(f: Array, kept: Array, kind: str, neighbours: int) -> Array:
    """The w [rows, rows] of rows of length 1; those of pairs that do not count mean nothing."""
    if kind == "knn":
        return near_rows(f, kept, neighbours)
    if kind == "linear":
        return jnp.matmul(f, f.T, precision="highest")
    squares = own_squared_distances(f)
    others = jnp.where(kept[:, None] & kept[None] & ~jnp.eye(len(f), dtype=bool), squares, jnp.inf)
    near, _ = jax.lax.top_k(-others, min(neighbours, len(f) - 1))
    furthest = jnp.sqrt(jnp.where(jnp.isfinite(near), -near, 0.0).max(1, initial=0.0))
    sigma = jnp.maximum(jnp.where(kept, furthest, 0.0).sum() / jnp.maximum(kept.sum(), 1), FLOOR)
    return jnp.exp(-squares / (2 * sigma[None, None] ** 2))


def _unit(f: Array) -> Array:
    return f / jnp.maximum(jnp.linalg.norm(f, axis=1, keepdims=True), 1e-12)


def _check(affinity: str, neighbours: Any, steps: Any) -> None:
    if affinity not in AFFINITIES:
        raise ValueError(f"affinity={affinity!r}: one of {list(AFFINITIES)}")
    checked.whole(1, neighbours=neighbours, steps=steps)

"""Small operations that several packages need: gradient reversal, means of tokens, collectives for a pmapped batch."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float

from jtl.typing import Key

HUGE = 1e18
"""About the square root of the largest float32: the square of a much larger number is infinite."""
BATCH_AXIS = "batch"
"""The axis name under which `jtl.train.parallel.pmap.pmap_step` maps."""


@jax.custom_vjp
def reverse_gradient(x: Float[Array, "..."], weight: Any) -> Float[Array, "..."]:
    """The gradient reversal layer: identity forward, `−λ·g` backward.

    Args:
      x: features, any shape.
      weight: λ, a scalar; it gets no gradient.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> jax.grad(lambda x: 3 * jtl.ops.reverse_gradient(x, 0.5))(1.0).item()
      -1.5

    Ganin and Lempitsky, Unsupervised Domain Adaptation by Backpropagation, 2015, arXiv 1409.7495.
    """
    del weight
    return x


def _reverse_forward(x, weight):
    return x, weight


def _reverse_backward(weight, g):
    return (-weight * g).astype(g.dtype), jax.tree.map(jnp.zeros_like, weight)


reverse_gradient.defvjp(_reverse_forward, _reverse_backward)


def mean_of_tokens(x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]) -> Array:
    """The mean of each row's tokens, [batch, width]; 0 for a row without any. Sums in float32 at least, rounded once.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> x, mask = jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]])
      >>> jtl.ops.mean_of_tokens(x, mask).tolist()
      [[2.0]]
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    weights = mask[:, :, None].astype(wide.dtype)
    return ((wide * weights).sum(1) / jnp.maximum(weights.sum(1), 1)).astype(x.dtype)


def kept(mask: Any, rows: int) -> Bool[Array, "rows"]:
    """Which rows count: those where a mask is above 0; all if the mask is None.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.ops.kept(None, 2).tolist(), jtl.ops.kept(jnp.array([1.0, 0.0]), 2).tolist()
      ([True, True], [True, False])
    """
    return jnp.ones(rows, bool) if mask is None else jnp.asarray(mask) > 0


def without_masked(tree: Any, mask: Any) -> Any:
    """A tree of arrays [batch, ...] in which NaN and huge floats of masked-out rows are replaced by zeros.

    A NaN in a row that does not count would still reach every gradient, because 0 · NaN is NaN. Ordinary numbers stay,
    because the rows that fill up a batch are real examples, and batch normalisation sees them.

    Args:
      tree: arrays; integers and booleans stay as they are.
      mask: [batch], or more of the leading dimensions of the arrays; None for all ones.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.ops import without_masked
      >>> without_masked(jnp.array([[1.0], [jnp.nan]]), jnp.array([True, False])).tolist()
      [[1.0], [0.0]]
    """
    if mask is None:
        return tree
    kept = jnp.asarray(mask) > 0

    def clean(a: Any) -> Any:
        a = jnp.asarray(a)
        if not jnp.issubdtype(a.dtype, jnp.floating) or a.shape[: kept.ndim] != kept.shape:
            return a  # a shape other than the mask's is reported where the array is used
        counts = kept.reshape(kept.shape + (1,) * (a.ndim - kept.ndim))
        return jnp.where(counts | (jnp.abs(a) < HUGE), a, jnp.zeros_like(a))  # NaN is below nothing

    return jax.tree.map(clean, tree)


def computed_once(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The identity, forward and backward, for a value that must be stored and not computed again by each reader.

    For the sum at the end of a residual block. XLA's CPU backend fuses cheap operations into every reader. So each
    reader of a residual stream sums it up again from all earlier blocks, and each weight sums up its gradient again
    from all later blocks: time grows with the square of the depth. On other devices than CPUs it does nothing.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.ops.computed_once(jnp.ones(2)).tolist()
      [1.0, 1.0]
    """
    stored = _divided if jax.__version_info__ < (0, 11) else jax.lax.optimization_barrier
    return by_platform(x, cpu=stored, default=lambda x: x)


def _divided(x: Array) -> Array:
    """Divides by one, for jax 0.10, which removes barriers after it folds constants but before it fuses operations.

    XLA considers a division too expensive to compute again. The divisor is not a scalar, because a loop would compute
    a scalar's reciprocal once, outside, and multiply inside.
    """
    return x / jax.lax.optimization_barrier(jnp.ones(x.shape, x.dtype))


def row_major(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The identity, forward and backward, for an array that XLA must lay out in memory in the order of its axes.

    For tokens of which few are used. XLA's GPU backend chooses the layout that suits the product that reads an array.
    The gradient of a head's weights sums over the batch, so the class tokens, and with them all tokens of all blocks,
    get the batch as their last axis; they are then transposed for each product and each normalisation.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> jtl.ops.row_major(jnp.ones(2)).tolist()
      [1.0, 1.0]
    """
    return by_platform(x, cpu=lambda x: x, default=_laid_out)


@jax.jit
def _laid_out(x: Array) -> Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def by_platform(*args: Array, cpu: Callable[..., Array], default: Callable[..., Array]) -> Array:
    """`cpu(*args)` in a program compiled for a CPU, `default(*args)` in any other.

    If the default backend is not the CPU, it is always `default`, and no time is spent on tracing the other function.

    Example:
      >>> import jax.numpy as jnp, jtl
      >>> float(jtl.ops.by_platform(jnp.ones(()), cpu=lambda x: x + 1, default=lambda x: 1 + x))
      2.0
    """
    if jax.default_backend() != "cpu":
        return default(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, default=default)


def batch_axis() -> str | None:
    """The name of the mapped batch axis if one is being traced, else None; None within `apart()` too.

    Under `jit` on a mesh an operation sees the global batch anyway. Under `pmap` it sees one device's part, and an
    operation on the whole batch (BatchNorm, MMD) has to ask for it by this name.

    Example:
      >>> import jtl
      >>> jtl.ops.batch_axis() is None
      True
    """
    if _apart.get():
        return None
    try:
        jax.lax.axis_index(BATCH_AXIS)
    except NameError:  # the documented answer of jax for a name that no pmap or vmap binds
        return None
    return BATCH_AXIS


_apart: ContextVar[bool] = ContextVar("jtl_apart", default=False)


@contextmanager
def apart() -> Generator[None, None, None]:
    """While entered, what is traced sees only its own rows under pmap too: tasks on other devices are separate tasks.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> def total(x):
      ...     with jtl.ops.apart():
      ...         return jtl.ops.batch_sum(x)
      >>> jax.vmap(total, axis_name=jtl.ops.BATCH_AXIS)(jnp.array([1.0, 2.0])).tolist()
      [1.0, 2.0]
    """
    before = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(before)


def batch_sum(tree: Any) -> Any:
    """The sum of every leaf over the devices of a mapped batch; the leaf itself if no batch is mapped.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> jax.vmap(jtl.ops.batch_sum, axis_name=jtl.ops.BATCH_AXIS)(jnp.array([1.0, 2.0])).tolist()
      [3.0, 3.0]
    """
    axis = batch_axis()
    return tree if axis is None else jax.lax.psum(tree, axis)


def device_key(key: Key) -> Key:
    """A key of this device's own under pmap, because equal keys would draw the same numbers on every device.

    Example:
      >>> import jax, jtl
      >>> key = jax.random.key(0)
      >>> bool(jtl.ops.device_key(key) == key)
      True
    """
    axis = batch_axis()
    return key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))


def gather(x: Array) -> Array:
    """The rows of `x` of all devices, in the devices' order, for a loss on the whole batch.

    Args:
      x: [batch, ...], this device's rows. Under jit, or on one device, it is returned as it is.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> jax.vmap(jtl.ops.gather, axis_name=jtl.ops.BATCH_AXIS)(jnp.array([[1.0], [2.0]])).shape
      (2, 2)
    """
    axis = batch_axis()
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)

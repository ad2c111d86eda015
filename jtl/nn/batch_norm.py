"""Batch normalisation that sees the whole batch under jit, on a mesh and under pmap."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops
from jtl.checked import within


class BatchNorm(nn.Module):
    """`y = γ (x − μ) / √(σ² + ε) + β`, with the batch's μ and σ² in training, otherwise the running ones.

    The running statistics move as torch's do, `r ← (1 − m) r + m s`, towards the batch's mean and its unbiased variance
    `σ² n / (n − 1)`. With m = 1 they are those of the last batch. Statistics are float32 (float64 for a float64 input)
    whatever dtype the network computes in. Under `pmap` (axis `jtl.ops.BATCH_AXIS`) they are those of all devices
    together; under `jit` on a mesh this holds anyway.

    Args:
      momentum: m, the weight of the new statistics (in flax it is the weight of the old ones).
      eps: ε.
      scale_init: the initial γ.

    Ioffe and Szegedy, Batch Normalization, 2015, arXiv 1502.03167.
    """

    momentum: float = 0.1
    eps: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def __post_init__(self):
        super().__post_init__()
        within("[0, 1]", momentum=self.momentum)
        within("[0, inf)", eps=self.eps)

    @nn.compact
    def __call__(self, x: Float[Array, "batch *positions channels"], train: bool) -> Array:
        """Normalises x over everything but its last dimension."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        scale, bias = (jnp.asarray(a, wide.dtype) for a in (scale, bias))
        if train:
            axis = ops.batch_axis()
            y, mean, var = _by_batch(wide, scale, bias, self.eps, axis)
            if not self.is_initializing():
                n = x.size // channels * (1 if axis is None else jax.lax.axis_size(axis))
                self._move(running_mean, mean)
                self._move(running_var, var * (n / max(n - 1, 1)))
        else:
            mean, var = (jnp.asarray(running.value, wide.dtype) for running in (running_mean, running_var))
            factor = jax.lax.rsqrt(var + self.eps) * scale
            y = (wide - _along(mean, wide)) * _along(factor, wide) + _along(bias, wide)
        return y.astype(x.dtype)

    def _move(self, running: nn.Variable, new: Array) -> None:
        new = jax.lax.stop_gradient(new).astype(running.value.dtype)
        running.value = (1 - self.momentum) * running.value + self.momentum * new


def _along(channels: Array, x: Array) -> Array:
    return channels.reshape((1,) * (x.ndim - 1) + channels.shape)


def _mean(x: Array, axis: str | None) -> Array:
    """The mean over all axes but the channels, and over the devices of a mapped axis."""
    mean = x.mean(tuple(range(x.ndim - 1)))
    return mean if axis is None else jax.lax.pmean(mean, axis)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _by_batch(x: Array, scale: Array, bias: Array, eps: float, axis: str | None) -> tuple[Array, Array, Array]:
    """y, and the whole batch's mean and biased variance.

    The variance is taken around the mean, in a second pass: the one-pass form `E[x²] − E[x]²` loses every digit where
    the mean is large. The axis is an argument because jax may ask for the derivative where another axis is mapped.
    """
    mean = _mean(x, axis)
    var = _mean(jnp.square(x - _along(mean, x)), axis)
    factor = jax.lax.rsqrt(var + eps) * scale
    return _affine(x, factor, bias - mean * factor), mean, var


def _affine(x: Array, factor: Array, shift: Array) -> Array:
    # Not `(x − μ) factor + β`: XLA's CPU backend would keep x − μ in addition to x until the gradient is taken.
    return x * _along(factor, x) + _along(shift, x)


@_by_batch.defjvp
def _derivative(eps: float, axis: str | None, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """Written so that its transpose sums over the batch only twice: g, and g (x − μ)."""
    (x, scale, _), (along_x, along_scale, along_bias) = primals, tangents
    y, mean, var = _by_batch(*primals, eps, axis)
    rate = jax.lax.rsqrt(var + eps)
    of_mean = _mean(along_x, axis)
    of_var = 2 * _mean((x - _along(mean, x)) * along_x, axis)  # the mean of x − μ is 0, so a change of μ has no effect
    slope = along_scale * rate - scale * rate**3 * of_var / 2
    shift = along_bias - scale * rate * of_mean - mean * slope
    return (y, mean, var), (_along(scale * rate, x) * along_x + _affine(x, slope, shift), of_mean, of_var)

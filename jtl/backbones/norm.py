"""Batch normalisation that sees the whole batch under jit, on a mesh and under pmap."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops


class BatchNorm(nn.Module):
    """`y = γ (x − μ) / √(σ² + ε) + β`, with the batch's μ and σ² in training, else the running ones.

    The running statistics move as torch's do, `r ← (1 − m) r + m s`, towards the batch's mean and its
    unbiased variance `σ² n / (n − 1)`. With m = 1 they are those of the last batch. Statistics are float32
    (float64 for a float64 input) whatever the network computes in. Under `pmap` (axis
    `jtl.ops.BATCH_AXIS`) they are those of all devices together; under `jit` on a mesh they are so anyway.

    Args:
      momentum: m, the share of the new statistics (flax counts the share of the old ones).
      eps: ε.
      scale_init: the initial γ.

    Ioffe and Szegedy, Batch Normalization, 2015, arXiv 1502.03167.
    """

    momentum: float = 0.1
    eps: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "batch *positions channels"], train: bool) -> Array:
        """Normalises x over everything but its last dimension."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean, var, n = batch_moments(wide)
            if not self.is_initializing():
                self._move(running_mean, mean)
                self._move(running_var, var * (n / max(n - 1, 1)))
        else:
            mean, var = running_mean.value.astype(wide.dtype), running_var.value.astype(wide.dtype)
        along = (1,) * (x.ndim - 1) + (channels,)
        factor = jax.lax.rsqrt(var + self.eps) * scale.astype(wide.dtype)
        y = (wide - mean.reshape(along)) * factor.reshape(along) + bias.astype(wide.dtype).reshape(along)
        return y.astype(x.dtype)

    def _move(self, running: nn.Variable, new: Array) -> None:
        new = jax.lax.stop_gradient(new).astype(running.value.dtype)
        running.value = (1 - self.momentum) * running.value + self.momentum * new


def batch_moments(x: Float[Array, "*positions channels"]) -> tuple[Array, Array, int]:
    """Mean and biased variance per channel over the whole batch, and how many values went into each.

    The variance is taken around the whole batch's mean, in a second pass: the one-pass form `E[x²] − E[x]²`
    loses every digit where the mean is large.
    """
    axes = tuple(range(x.ndim - 1))
    axis = ops.batch_axis()
    devices = 1 if axis is None else jax.lax.axis_size(axis)
    mean = ops.batch_mean(x.mean(axes, keepdims=True))
    var = ops.batch_mean(jnp.square(x - mean).mean(axes))
    return mean.reshape(-1), var, x.size // x.shape[-1] * devices

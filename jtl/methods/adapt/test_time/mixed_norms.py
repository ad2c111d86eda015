"""Networks whose BatchNorm normalises by a mixture of the running statistics and the batch's."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jtl import ops
from jtl.methods.adapt.test_time.norms import without_dropout
from jtl.model import Model
from jtl.nn.batch_norm import BatchNorm
from jtl.params import flatten
from jtl.transform.intercept import Call, intercepted


def mixed(net: Model, share: float, *, rows: Array | None = None, as_running: bool = False) -> Model:
    """The network whose BatchNorm normalises by `(1 − α) r + α s`, r the running statistics and s the batch's.

    The layers above see activations that are normalised so. The statistics that `apply` returns are the mixtures.
    Dropout and stochastic depth are off. A network without BatchNorm is unchanged in all other respects.

    Args:
      net: a network with the BatchNorm of jtl or of flax.linen, or without BatchNorm.
      share: α, in [0, 1].
      rows: bool [batch], the rows that s is computed over; None for all.
      as_running: whether s is what running statistics move towards: without a gradient, and with the unbiased variance.
        Otherwise the gradient passes through s, and the variance is biased.

    Raises:
      ValueError: when called, for a network with running variances in which no BatchNorm is found, such as one of
        flax.nnx; with `rows`, for a BatchNorm whose input does not have one row for each of them.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.methods.adapt.test_time.mixed_norms import mixed
      >>> net, x = jtl.backbones.conv4(4), jnp.ones((2, 16, 16, 3))
      >>> variables = net.init(jax.random.key(0), x)
      >>> _, stats = mixed(net, 1.0).apply(variables, x, train=False)
      >>> float(abs(stats["stage1"]["norm"]["var"]).max()) < 1
      True

    Schneider et al., Improving robustness against common corruptions by covariate shift adaptation, 2020, arXiv
    2006.16971.
    """
    quiet = without_dropout(net)

    def apply(variables: Any, x: Any, *, train: bool, key: Any = None) -> tuple:
        del train
        mixing = _Mixing(share, rows, as_running)
        # In training mode, in which a layer may write its statistics.
        fixed = jax.random.key(0) if key is None else key
        out = intercepted(quiet, lambda: mixing, "").apply(variables, x, train=True, key=fixed)
        running = [path for path in flatten(variables.stats) if path.rsplit("/", 1)[-1] == "var"]
        if running and not mixing.found:
            raise ValueError(
                f"this network has the running statistics {running[:3]}, and no BatchNorm of jtl or flax.linen: its"
                " statistics cannot be mixed with the batch's"
            )
        return out

    return net._replace(apply=apply)


class _Mixing:
    count = 1  # the network need not have BatchNorm

    def __init__(self, share: float, rows: Array | None, as_running: bool) -> None:
        self.share, self.rows, self.as_running, self.found = share, rows, as_running, False

    def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        layer = call.module
        if call.method != "__call__" or not isinstance(layer, BatchNorm | nn.BatchNorm):
            return run(*args, **kwargs)
        self.found = True
        x = args[0] if args else kwargs["x"]
        wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        channel = x.ndim - 1 if isinstance(layer, BatchNorm) else _channel(layer, x.ndim)
        along = [1] * x.ndim
        along[channel] = x.shape[channel]
        pair = []
        for name, new in zip(("mean", "var"), self._of_batch(wide, channel), strict=True):
            running = layer.get_variable("batch_stats", name)
            both = (1 - self.share) * running + self.share * new
            layer.put_variable("batch_stats", name, jax.lax.stop_gradient(both).astype(running.dtype))
            pair.append(both.reshape(along))
        mean, var = pair
        y = (wide - mean) * jax.lax.rsqrt(var + (layer.eps if isinstance(layer, BatchNorm) else layer.epsilon))
        scale, bias = (layer.get_variable("params", name) for name in ("scale", "bias"))
        y = y if scale is None else y * scale.reshape(along)
        y = y if bias is None else y + bias.reshape(along)
        if isinstance(layer, BatchNorm):
            return y.astype(x.dtype)
        return y.astype(layer.dtype or jnp.result_type(x, *(a for a in (scale, bias) if a is not None)))

    def _of_batch(self, x: Array, channel: int) -> tuple[Array, Array]:
        """The mean and variance over the chosen rows of all devices, and over all positions."""
        axes = tuple(axis for axis in range(x.ndim) if axis != channel)
        positions = x.size // (x.shape[0] * x.shape[channel])
        if self.rows is None:
            chosen, n = True, jnp.asarray(x.shape[0] * positions, x.dtype)
        else:
            if len(self.rows) != len(x):
                raise ValueError(
                    f"a BatchNorm sees {len(x)} rows of a batch of {len(self.rows)}: it is not known which are masked"
                )
            chosen = self.rows.reshape((-1,) + (1,) * (x.ndim - 1))
            n = jnp.sum(self.rows, dtype=x.dtype) * positions
        total, n = ops.batch_sum((jnp.where(chosen, x, 0).sum(axes), n))
        n = jnp.maximum(n, 1)
        mean = total / n
        along = [1] * x.ndim
        along[channel] = x.shape[channel]
        squares = jnp.where(chosen, jnp.square(x - mean.reshape(along)), 0).sum(axes)
        var = ops.batch_sum(squares) / n
        if not self.as_running:
            return mean, var
        return jax.lax.stop_gradient((mean, var * (n / jnp.maximum(n - 1, 1))))


def _channel(layer: nn.BatchNorm, dimensions: int) -> int:
    if not isinstance(layer.axis, int):
        raise ValueError(f"a BatchNorm over the axes {layer.axis}: statistics can be mixed for one axis")
    return layer.axis % dimensions

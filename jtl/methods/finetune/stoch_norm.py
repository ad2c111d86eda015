"""StochNorm: in training, each channel is randomly normalised by the batch's or by the running statistics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jtl import rng
from jtl.model import Model
from jtl.networks import network
from jtl.nn.batch_norm import BatchNorm
from jtl.transform.intercept import Call, intercepted


def stoch_norm(model: Model, p: float = 0.5) -> Model:
    """The model whose BatchNorm is, in training, `s y_batch + (1 − s) y_running` with s ~ Bernoulli(p) per channel.

    p = 1 is BatchNorm in training; p = 0 normalises as in evaluation. The running statistics in use are those before
    the step, and they are always updated. Evaluation does not change. The parameters are those of the model.

    Args:
      model: a backbone, or a network (`jtl.network`), of which only the backbone is changed. Its BatchNorm must be
        `jtl.nn.batch_norm`.
      p: the probability of using the batch's statistics, in [0, 1].

    Raises:
      ValueError: for p out of range; when called, for a model without BatchNorm, or in training without a key.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.conv4(4), head=jtl.heads.linear(3))
      >>> net = jtl.finetuning.stoch_norm(net, 0.5)

    Kou et al., Stochastic Normalization, 2020.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: the probability of the batch's statistics lies in [0, 1]")
    if model.parts is not None:
        parts = {**model.parts, "backbone": stoch_norm(model.parts["backbone"], p)}
        return network(**parts)._replace(classes=model.classes)
    return intercepted(model, lambda: _Drawn(p), "stoch_norm: the model has no BatchNorm of jtl.nn.batch_norm")


class _Drawn:
    def __init__(self, p: float) -> None:
        self.p, self.count = p, 0

    def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        norm = call.module
        if not isinstance(norm, BatchNorm) or call.method != "__call__":
            return run(*args, **kwargs)
        self.count += 1
        train = args[1] if len(args) > 1 else kwargs["train"]
        if not train:
            return run(*args, **kwargs)
        if call.key is None:
            raise ValueError("stoch_norm draws in training: give a key")
        x, kept = args[0] if args else kwargs["x"], norm.variables
        params, stats = kept["params"], kept["batch_stats"]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        mean, var, scale, bias = (
            jnp.asarray(a, wide).reshape((1,) * (x.ndim - 1) + (-1,))
            for a in (stats["mean"], stats["var"], params["scale"], params["bias"])
        )
        running = (x.astype(wide) - mean) * (jax.lax.rsqrt(var + norm.eps) * scale) + bias
        drawn = jax.random.bernoulli(rng.stream(call.key, f"stoch_norm/{call.path}"), self.p, x.shape[-1:])
        batch = run(*args, **kwargs)
        return jnp.where(drawn.reshape((1,) * (x.ndim - 1) + (-1,)), batch, running.astype(batch.dtype))

"""MixStyle: feature maps take on a mixture of the statistics of two examples."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl import ops, rng
from jtl.model import Model
from jtl.transform.intercept import Call, on_outputs
from jtl.typing import Key

EPS = 1e-6
"""Added to variances, as in the authors' code."""


def mixstyle(backbone: Model, at: str, *, alpha: float = 0.1, probability: float = 0.5) -> Model:
    """The backbone whose feature maps at some modules are `γ (f − μ(f)) / σ(f) + β` in training.

    `γ = λ σ(f) + (1 − λ) σ(f')` and `β = λ μ(f) + (1 − λ) μ(f')`, with μ and σ the mean and standard deviation over the
    positions of each example and channel, f' the map of another example of the batch, and `λ ~ Beta(α, α)` for each
    example. The statistics have no gradient. Each step mixes with the given probability, drawn separately for each
    module. There are no parameters; in evaluation, or without a key, the result is the backbone itself.

    Args:
      backbone: a model of flax.linen modules.
      at: a regular expression for the modules' paths, such as `stage[12]`; the authors use early stages.
      alpha: α > 0.
      probability: the probability of mixing, in [0, 1].

    Raises:
      ValueError: for an α or probability out of range; when called, if no module has such a path; while tracing, for an
        output that is not a map [batch, height, width, channels].

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> body = jtl.alignments.mixstyle(jtl.backbones.conv4(8), "stage[12]")
      >>> net, x = jtl.network(backbone=body, head=jtl.heads.linear(3)), jnp.ones((2, 16, 16, 3))
      >>> net.apply(net.init(jax.random.key(0), x), x, train=True, key=jax.random.key(1))[0].output.shape
      (2, 3)

    Zhou et al., Domain Generalization with MixStyle, 2021, arXiv 2104.02008.
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha={alpha}: give a positive number")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}: it lies in [0, 1]")

    def mixing(y: Any, call: Call) -> Any:
        if not call.train or call.key is None:
            return y
        if not isinstance(y, jax.Array) or y.ndim != 4:
            raise ValueError(f"mixstyle: {call.path!r} gives {jax.tree.map(jnp.shape, y)}; give maps [b, h, w, c]")
        own, coin = jax.random.split(rng.stream(call.key, f"mixstyle/{call.path}"))
        on = ops.gather(jax.random.bernoulli(coin, probability)[None])[0]  # one coin for all devices
        share, order = draws(own, alpha, len(y))
        return jnp.where(on, restyled(y, share, order), y)

    return on_outputs(backbone, at, mixing, f"mixstyle: no module's path matches {at!r}")


def draws(key: Key, alpha: float, n: int) -> tuple[Array, Array]:
    """`λ ~ Beta(α, α)` for each example, and the index of the example whose statistics it is mixed with."""
    a, b = jax.random.split(key)
    return jax.random.beta(a, alpha, alpha, (n,)), jax.random.permutation(b, n)


def restyled(f: Float[Array, "batch height width channels"], share: Array, order: Array) -> Array:
    """`f` with mixed statistics, in the same dtype.

    Args:
      f: feature maps.
      share: λ, [batch].
      order: index of the example that each is mixed with, [batch].

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.methods.adapt.mixstyle import restyled
      >>> f = jnp.array([1.0, 3.0, 10.0, 50.0]).reshape(2, 1, 2, 1)
      >>> restyled(f, jnp.array([1.0, 0.0]), jnp.array([1, 0])).round(2).ravel().tolist()  # the first stays
      [1.0, 3.0, 1.0, 3.0]
    """
    wide = f.astype(jnp.promote_types(f.dtype, jnp.float32))
    n = f.shape[1] * f.shape[2]
    fixed = jax.lax.stop_gradient(wide)
    mean = fixed.mean((1, 2), keepdims=True)
    deviation = jnp.sqrt(((fixed - mean) ** 2).sum((1, 2), keepdims=True) / max(n - 1, 1) + EPS)
    s = share.astype(wide.dtype)[:, None, None, None]
    scale = s * deviation + (1 - s) * deviation[order]
    shift = s * mean + (1 - s) * mean[order]
    return ((wide - mean) / deviation * scale + shift).astype(f.dtype)

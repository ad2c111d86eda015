"""SAR: sharpness-aware entropy minimisation on reliable rows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl.methods.adapt.test_time.norms import norms
from jtl.methods.adapt.test_time.predictions import kept, logits_of
from jtl.metrics.accumulate import Mean
from jtl.metrics.certainty import entropy
from jtl.model import Model
from jtl.objective import Objective, init_of
from jtl.params import merge, split
from jtl.typing import Aux, Batch, Key, Mask, Params, Stats, Tree


def sar(net: Model, *, trainable: Mask | Tree = norms, radius: float = 0.05, margin: float = 0.4) -> Objective:
    """The objective `mean_{i in S'} H_i(θ + ε)` with `ε = ρ g / ‖g‖`, `g = ∇ mean_{i in S} H_i(θ)`.

    S are the rows with `H_i(θ) < margin · ln C`, and S' the rows of S that are below this limit at θ + ε too. ε has no
    gradient. A batch is predicted before the update, as in the authors' code. That code does not train the
    normalisation layers at the top (of a ResNet's last stage; of a ViT-B's last three blocks, and its final one); here
    all normalisation layers are trained by default.

    Args:
      net: `jtl.network(backbone=..., head=...)` with logits [batch, classes].
      trainable: the parameters that are perturbed, which should be the `trainable` of the stream. Pass both a mask
        without the top layers to train the same layers as the authors' code.
      radius: ρ.
      margin: entropy limit of reliable rows, as a share of the largest possible entropy.

    Returns:
      A test-time objective; its stream should have `guard=0.2` and plain SGD with momentum.

    Raises:
      ValueError: for a radius that is not positive, or a margin outside (0, 1].

    Example:
      >>> import jtl, optax
      >>> net = jtl.network(backbone=jtl.backbones.conv4(8), head=jtl.heads.linear(3))
      >>> tx = optax.sgd(1e-3, momentum=0.9)
      >>> adapting = jtl.test_time.stream(jtl.test_time.sar(net), tx, guard=0.2)

    Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, 2023, arXiv 2302.12400.
    """
    if not radius > 0:
        raise ValueError(f"radius={radius}: the perturbation's length is positive")
    if not 0 < margin <= 1:
        raise ValueError(f"margin={margin}: it lies in (0, 1]")

    def run(params: Params, stats: Stats, batch: Batch, key: Key | None, step: Any) -> tuple[Mean, Aux]:
        del step
        part, rest = split(params, trainable)

        def entropies(part: Params) -> tuple[Any, Any]:
            logits = logits_of(net, merge(part, rest), stats, batch, key)
            return entropy(jnp.where(kept(batch, len(logits))[:, None], logits, 0)), logits

        def first(part: Params) -> tuple[Any, Any]:
            h, logits = entropies(part)
            reliable = kept(batch, len(h)) & (h < margin * math.log(logits.shape[1]))
            return _mean(h, reliable), (reliable, logits)

        grads, (reliable, logits) = jax.grad(first, has_aux=True)(jax.lax.stop_gradient(part))
        scale = radius / (optax.tree.norm(grads) + 1e-12)
        moved = jax.tree.map(lambda p, g: p + jax.lax.stop_gradient(scale * g).astype(p.dtype), part, grads)
        h, _ = entropies(moved)
        chosen = reliable & (h < margin * math.log(logits.shape[1]))
        value = Mean(jnp.sum(jnp.where(chosen, h, 0)), jnp.sum(chosen, dtype=h.dtype))
        share = Mean(value.count, jnp.sum(kept(batch, len(h)), dtype=h.dtype))
        return value, Aux(stats, {"selected": share}, {"output": logits})

    return Objective(run, init_of(net))


def _mean(values: Any, chosen: Any) -> Any:
    return jnp.sum(jnp.where(chosen, values, 0)) / jnp.maximum(chosen.sum(), 1)

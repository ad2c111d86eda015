"""Additions to optax: learning rates by parameter path, layer decay, and the usual mask of weight decay."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jtl.params import Table, flatten, match, unflatten
from jtl.typing import Params, Schedule, Tree


def scale(table: Table) -> optax.GradientTransformation:
    """Learning-rate groups: multiplies each parameter's update by the value of the first rule that matches it.

    Chain it behind an optimizer: `optax.chain(optax.adamw(1e-3), scale([("head/.*", 10.0), (".*", 1.0)]))` trains
    the head at 1e-2. Decoupled weight decay is part of the update and scales with it, as a rate would.

    Args:
      table: `(regex, factor)` over the trainable parameters' paths; a factor may be a function of the step.

    Raises:
      ValueError: at init, for parameters that no rule matches or rules that match none (`jtl.params.match`).
    """

    def init(params: Any) -> Any:
        match(table, params)
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def scaled(u, factor):
            return u * jnp.asarray(factor(state.count) if callable(factor) else factor, u.dtype)

        return jax.tree.map(scaled, updates, match(table, updates)), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def layer_decay(params: Params, order: list[str], rate: float) -> list[tuple[str, float]]:
    """Layer-wise rates: `rate^(L − l)` for layer l of L, the last one at 1.

    Args:
      params: the trainable parameters; every pattern of `order` must match some, and all must be matched.
      order: patterns from the input to the output, as `["backbone/stem/.*", "backbone/block1/.*", "head/.*"]`.
      rate: the factor between neighbours, in (0, 1]; .65 to .75 for a ViT.

    Returns:
      A table for `scale`.

    Bao et al., BEiT, 2021, arXiv 2106.08254; Clark et al., ELECTRA, 2020, arXiv 2003.10555.

    Raises:
      ValueError: for a rate outside (0, 1], or patterns that do not cover the parameters.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate}: the decay from layer to layer lies in (0, 1]")
    table = [(pattern, rate ** (len(order) - 1 - i)) for i, pattern in enumerate(order)]
    match(table, params)
    return table


def decayed(params: Params) -> Tree:
    """The usual mask of weight decay: matrices and kernels decay, biases, norms and scales do not.

    A leaf decays where it has at least two dimensions. Give it to optax: `optax.adamw(1e-3, mask=decayed)`.
    """
    return unflatten({path: jnp.ndim(leaf) > 1 for path, leaf in flatten(params).items()})


def annealed(learning_rate: float, total_steps: int, gain: float = 10.0, power: float = 0.75) -> Schedule:
    """The rate that DANN anneals: `η₀ (1 + gain·p)^(−power)` with `p = step / total_steps`.

    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, arXiv 1505.07818, section 5.2.

    Raises:
      ValueError: where the run has no steps.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps}: the run has at least one step")

    def schedule(step: Any) -> Array:
        p = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
        return learning_rate * (1.0 + gain * p) ** -power

    return schedule


def warmup_cosine(learning_rate: float, total_steps: int, warmup: float = 0.1) -> Callable[[Any], Any]:
    """A linear rise over a share of the run, then a cosine to zero: what most fine-tuning uses.

    Args:
      learning_rate: the peak.
      total_steps: of the run.
      warmup: the share of the run that rises, in [0, 1).

    Raises:
      ValueError: for a share outside [0, 1) or a run without steps.
    """
    if total_steps < 1 or not 0 <= warmup < 1:
        raise ValueError(f"total_steps={total_steps}, warmup={warmup}: at least one step, and a share in [0, 1)")
    rise = int(total_steps * warmup)
    return optax.warmup_cosine_decay_schedule(0.0 if rise else learning_rate, learning_rate, rise, total_steps)

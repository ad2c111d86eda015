"""The learning-rate range test: a short run with a rising rate, and the rates that its loss suggests."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jtl.model import Variables
from jtl.objective import Objective
from jtl.train.step import make_step
from jtl.typing import Key, Mask

SMOOTHING = 0.9
DIVERGED = 4.0
"""The test ends when the smoothed loss is more than this many times its lowest value."""


class Rates(NamedTuple):
    """The result of `lr_find`.

    Args:
      rates: the rate of each step, rising.
      losses: the loss of each step, before its update.
      smoothed: the exponential mean of the losses, corrected for the bias of its start.
      steepest: the rate at which the smoothed loss falls fastest over the logarithm of the rate; None if it never
        falls.
      tenth: a tenth of the rate of the lowest smoothed loss; None if that is the first one.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float | None
    tenth: float | None


def lr_find(
    objective: Objective | Callable,
    variables: Variables,
    data: Any,
    *,
    key: Key,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adamw,
    trainable: Mask | None = None,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 80,
    clip: float | None = None,
) -> Rates:
    """Takes steps whose rate rises from `low` to `high`, `η_t = low (high / low)^(t / (steps − 1))`.

    It ends early if the loss is not finite, or its mean exceeds `DIVERGED` times its lowest value. The mean of the
    losses is `m_t / (1 − β^{t+1})` with `m_t = β m_{t−1} + (1 − β) ℓ_t` and β = 0.9. The variables stay as they are.

    Args:
      objective: as in `jtl.make_step`.
      variables: the start of the run.
      data: batches `data[0]`, `data[1]` ..., of one shape.
      key: the key of the run.
      optimizer: a function from a schedule to an optax optimizer.
      trainable: the parameters to train; None for all.
      low: the first rate.
      high: the last rate.
      steps: the largest number of steps.
      clip: as in `jtl.make_step`.

    Raises:
      ValueError: for rates that do not rise, fewer than 2 steps, or a first loss that is not finite.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> data = jtl.data.arrays(jnp.eye(12), jnp.arange(12) % 3, batch_size=12)
      >>> variables = net.init(jax.random.key(0), data[0]["x"])
      >>> found = jtl.lr_find(jtl.finetune(net), variables, data, key=jax.random.key(1))
      >>> 1e-6 < found.steepest < 1
      True

    Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv 1506.01186.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"low={low}, high={high}: give rates above zero that rise")
    if steps < 2:
        raise ValueError(f"steps={steps}: give at least 2")

    def schedule(step: Any) -> Any:
        return low * (high / low) ** (step / (steps - 1))

    step = make_step(objective, optimizer(schedule), trainable=trainable, clip=clip)
    state, take = step.init(variables, key), jax.jit(step, donate_argnums=0)
    losses, smoothed, mean = [], [], 0.0
    for t in range(steps):
        state, metrics = take(state, data[t])
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        losses.append(loss)
        smoothed.append(mean / (1 - SMOOTHING ** (t + 1)))
        if t > steps // 10 and smoothed[-1] > DIVERGED * min(smoothed):
            break
    if not losses:
        raise ValueError("the loss of the variables as they are is not finite: look at the data, and at the weights")
    rates = np.array([schedule(t) for t in range(len(losses))])
    return Rates(rates, np.array(losses), np.array(smoothed), *_suggested(rates, np.array(smoothed)))


def _suggested(rates: np.ndarray, smoothed: np.ndarray) -> tuple[float | None, float | None]:
    lowest = int(smoothed.argmin())
    if lowest == 0:
        return None, None
    slopes = np.gradient(smoothed[: lowest + 1], np.log(rates[: lowest + 1]))
    return float(rates[slopes.argmin()]), float(rates[lowest] / 10)

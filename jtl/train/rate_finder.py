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

HALF = 5
"""A mean is over the losses of this many steps on either side."""
DIVERGED = 4.0
"""The test ends when the mean loss is more than this many times its lowest value."""
NOISE = 2.0
"""A fall counts if it is more than this many standard deviations of one loss: a mean of noise falls by one of them."""


class Rates(NamedTuple):
    """The result of `lr_find`.

    Args:
      rates: the rate of each step, rising.
      losses: the loss of each step, before its update.
      smoothed: for each step the mean of the losses from five steps before to five steps after it, fewer at the ends.
      steepest: the middle of the ten steps over which the smoothed loss falls most, up to its lowest; None with `note`.
      tenth: a tenth of the rate of the lowest smoothed loss; None with `note`.
      note: why no rate is suggested, and what to try; None if rates are suggested.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float | None = None
    tenth: float | None = None
    note: str | None = None


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

    It ends early if the loss is not finite, or the mean of 11 losses exceeds 4 times its lowest value. The mean of a
    step has it in its middle, so that it does not lag behind the rate. The first five steps, whose means are of few
    losses, suggest no rate. None is suggested either if the lowest mean is in the last five steps before `high`, or if
    the mean falls by at most 2σ, with σ the noise of a loss, `σ² = mean (ℓ_{t+1} − ℓ_t)² / 2`. The variables stay as
    they are.

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
      >>> found = jtl.lr_find(jtl.finetune(net), variables, data, key=jax.random.key(1), high=10.0)
      >>> 1e-3 < found.steepest < 1
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
    losses, lowest, window = [], math.inf, 2 * HALF + 1
    for t in range(steps):
        state, metrics = take(state, data[t])
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            break
        losses.append(loss)
        if len(losses) >= window:
            mean = sum(losses[-window:]) / window
            lowest = min(lowest, mean)
            if mean > DIVERGED * lowest:
                break
    if not losses:
        raise ValueError("the loss of the variables as they are is not finite: look at the data, and at the weights")
    return suggested(np.array([schedule(t) for t in range(len(losses))]), np.array(losses), high)


def suggested(rates: np.ndarray, losses: np.ndarray, high: float) -> Rates:
    """Returns the rates that the losses of a range test suggest.

    Args:
      rates: the rate of each step, rising.
      losses: the loss of each step.
      high: the rate at which the test would end if its loss did not rise.
    """
    smoothed = np.array([losses[max(t - HALF, 0) : t + HALF + 1].mean() for t in range(len(losses))])
    found = Rates(rates, losses, smoothed)
    if len(losses) <= HALF:
        return found._replace(note=f"the test ended after {len(losses)} steps; try more of them, or lower rates")
    lowest = HALF + int(smoothed[HALF:].argmin())
    down = smoothed[HALF : lowest + 1]
    noise = math.sqrt(np.mean(np.diff(losses[: lowest + 1]) ** 2) / 2)
    if down.max() - down[-1] <= NOISE * noise:
        return found._replace(note="the loss does not fall by more than its noise; try larger batches, or other rates")
    if lowest >= len(rates) - HALF and math.isclose(rates[-1], high):
        return found._replace(note=f"the loss still falls at the highest rate, {high:g}; try higher ones")
    wide = np.pad(down, HALF, mode="edge")
    steepest = HALF + int((wide[2 * HALF :] - wide[: -2 * HALF]).argmin())
    return found._replace(steepest=float(rates[steepest]), tenth=float(rates[lowest] / 10))

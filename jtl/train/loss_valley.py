"""Where SWAD's average starts and ends: a valley of the validation loss, found while the run goes on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jtl.train.average import Average, average_start
from jtl.typing import Params


class ValleyRule(NamedTuple):
    """The numbers of SWAD's rule.

    Args:
      optimum: `N_s ≥ 1`, in validations.
      overfit: `N_e ≥ 1`, in validations.
      tolerance: `r ≥ 1`.
    """

    optimum: int
    overfit: int
    tolerance: float


class Valley(NamedTuple):
    """What is kept of the validations so far; arrays of fixed shapes, so that a checkpoint holds it.

    Args:
      seen: number of validations.
      held: number of validations from the lowest loss on, until the start is found.
      losses: their losses, [optimum]; the lowest is first.
      ends: their steps, [optimum].
      settled: whether the start is found.
      over: whether the end is found.
      start: `t_s`, a step.
      end: the last step that is in the average so far.
      threshold: the loss above which a validation is not in the valley.
      above: number of validations in a row above it.
      slots: until the start is found, the averages of the weights up to each of the losses. From then on the average of
        the valley, and that of the weights of validations above the threshold that may still belong to it.
    """

    seen: Array
    held: Array
    losses: Array
    ends: Array
    settled: Array
    over: Array
    start: Array
    end: Array
    threshold: Array
    above: Array
    slots: tuple[Average, ...]


def valley_start(params: Params, rule: ValleyRule) -> Valley:
    """A valley without validations, for parameters like these.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.train.loss_valley import ValleyRule, valley_start
      >>> len(valley_start({"w": jnp.zeros(2)}, ValleyRule(3, 6, 1.3)).slots)
      3
    """
    none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    slots = tuple(average_start(params) for _ in range(max(rule.optimum, 2)))
    losses, ends = jnp.zeros(rule.optimum, jnp.float32), jnp.zeros(rule.optimum, jnp.int32)
    return Valley(none, none, losses, ends, no, no, none, none, jnp.zeros((), jnp.float32), none, slots)


def valley_add(valley: Valley, segment: Average, loss: float, step: int, rule: ValleyRule) -> Valley:
    """The valley after one more validation; the same if its end is found.

    Args:
      valley: from `valley_start`, or an earlier call with the same rule.
      segment: the average of the weights since the validation before.
      loss: the validation loss of the last of them.
      step: their last step.
      rule: the rule.

    Raises:
      ValueError: for a loss that is negative or not finite, because the threshold is a multiple of losses, and for a
        segment without weights or a step that is not after the last.

    Example:
      >>> import jax.numpy as jnp
      >>> from jtl.train.average import average_add, average_start
      >>> from jtl.train.loss_valley import ValleyRule, valley_add, valley_average, valley_start
      >>> zero, rule = {"w": jnp.zeros(())}, ValleyRule(optimum=2, overfit=2, tolerance=1.3)
      >>> valley = valley_start(zero, rule)
      >>> for step, loss in enumerate([9.0, 2.0, 2.1, 1.9, 3.0, 2.0, 4.0, 5.0, 1.0], 1):
      ...     segment = average_add(average_start(zero), {"w": jnp.array(float(step))})
      ...     valley = valley_add(valley, segment, loss, step, rule)
      >>> average, start, end = valley_average(valley)
      >>> start, end, float(average.mean["w"])
      (2, 6, 4.5)
    """
    if bool(valley.over):
        return valley
    if not 0 <= loss < float("inf"):
        raise ValueError(f"the validation loss of step {step} is {loss}: SWAD needs finite losses of at least 0")
    before = int(valley.ends.max()) if not bool(valley.settled) else int(valley.end)
    if not int(segment.taken) or step <= before:
        raise ValueError(f"no weights were averaged between step {before}, of an earlier validation, and step {step}")
    valley, loss = valley._replace(seen=valley.seen + 1), float(np.float32(loss))
    if bool(valley.settled):
        return _followed(valley, segment, loss, step, rule.overfit)
    held = int(valley.held)
    place = 0 if loss < float(valley.losses[0]) else held  # nothing is held at first, so that the place is 0 too
    slots = tuple(segment if i == place else slot for i, slot in enumerate(valley.slots))
    losses, ends = valley.losses.at[place].set(loss), valley.ends.at[place].set(step)
    valley = valley._replace(held=_whole(place + 1), losses=losses, ends=ends, slots=slots)
    return valley if place + 1 < rule.optimum else _settled(valley, rule)


def valley_average(valley: Valley) -> tuple[Average, int, int]:
    """The average of the valley so far, `t_s` and `t_e`; weights after the last validation in the valley are not in it.

    Raises:
      ValueError: if the start was not found.
    """
    if not bool(valley.settled):
        raise ValueError(
            f"SWAD found no start in {int(valley.seen)} validations, because the loss was still falling: of the last"
            f" {len(valley.losses)} the first must be the lowest. Take more steps, validate more often, or ask for a"
            " smaller optimum"
        )
    return valley.slots[0], int(valley.start), int(valley.end)


def _settled(valley: Valley, rule: ValleyRule) -> Valley:
    """The valley whose start is the first of the losses held; the others are looked at again, with the threshold."""
    held, start = valley.slots, valley.ends[0]
    threshold = (rule.tolerance * valley.losses.mean()).astype(jnp.float32)
    slots = (held[0], *(average_start(held[0].mean) for _ in held[1:]))
    valley = valley._replace(settled=jnp.ones((), bool), start=start, end=start, threshold=threshold, slots=slots)
    for i in range(1, rule.optimum):
        loss = float(valley.losses[i]) if i > rule.optimum - rule.overfit else 0.0  # windows end after the start's
        valley = _followed(valley, held[i], loss, int(valley.ends[i]), rule.overfit)
    return valley


def _followed(valley: Valley, segment: Average, loss: float, step: int, overfit: int) -> Valley:
    """The valley, whose start is known, after one more validation."""
    chosen, pending, *rest = valley.slots
    pending = _merged(pending, segment)
    if loss > float(valley.threshold):
        above = int(valley.above) + 1
        return valley._replace(above=_whole(above), over=jnp.asarray(above == overfit), slots=(chosen, pending, *rest))
    empty = average_start(chosen.mean)
    if int(valley.end) == int(valley.start):
        chosen = empty  # the weights up to the start are the average only while there are no later ones
    return valley._replace(above=_whole(0), end=_whole(step), slots=(_merged(chosen, pending), empty, *rest))


@jax.jit
def _merged(a: Average, b: Average) -> Average:
    """The average of the weights of both."""
    taken = a.taken + b.taken

    def of_both(m: Array, n: Array) -> Array:
        return m + (n - m) * (b.taken.astype(m.dtype) / jnp.maximum(taken, 1).astype(m.dtype))

    return Average(taken, jax.tree.map(of_both, a.mean, b.mean))


def _whole(number: Any) -> Array:
    return jnp.asarray(number, jnp.int32)

"""Turns and phases: which objective updates which parameters, in which order, from which step on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optax

from jtl.objective import Objective, as_objective
from jtl.params import flatten, select
from jtl.typing import Mask, Params


@dataclass(frozen=True)
class Turn:
    """An objective, and the groups of parameters that it moves.

    Args:
      objective: the objective to minimise; a bare loss function is one too.
      by: the groups, by the place of their optimizers in the `tx` of `make_step`. Only these are differentiated.
      repeat: how many times in a row the turn is taken, on the same batch, in a scan.
      name: the prefix of its metrics, as in `name/loss`; if empty, the turn's number.

    Raises:
      ValueError: for no groups, a group that is listed twice, or `repeat` below 1.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> turn = jtl.Turn(jtl.finetune(net), by=(1,), repeat=4, name="head")
    """

    objective: Objective | Callable
    by: tuple[int, ...] = (0,)
    repeat: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", as_objective(self.objective))
        if not self.by or len(set(self.by)) < len(self.by):
            raise ValueError(f"by={self.by}: give the numbers of the groups that this turn moves, each once")
        if self.repeat < 1:
            raise ValueError(f"repeat={self.repeat}: a turn is taken at least once")


@dataclass(frozen=True)
class Phase:
    """Turns that are taken from a step on, until the next phase begins.

    All phases of a run share one `State`. Parameters that a phase does not train keep their bits, and the optimizer
    state of a group that was never trained is as it was initialised.

    Args:
      start: the first step of the phase, counted from 0.
      turns: like the first argument of `make_step`.

    Raises:
      ValueError: for a negative start.

    Example:
      >>> import jtl
      >>> net = jtl.network(backbone=jtl.backbones.mlp((8,)), head=jtl.heads.linear(3))
      >>> probe = jtl.Phase(0, jtl.Turn(jtl.finetune(net), by=(0,)))
      >>> tune = jtl.Phase(100, jtl.Turn(jtl.finetune(net), by=(0, 1)))
    """

    start: int
    turns: Any

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ValueError(f"start={self.start}: a phase starts at step 0 or later")


def as_phases(given: Any, groups: int) -> tuple[tuple[int, tuple[Turn, ...]], ...]:
    """The first argument of `make_step` as phases of turns.

    Args:
      given: an objective, a turn, a sequence of them, or a sequence of phases.
      groups: the number of optimizers.

    Raises:
      ValueError: for phases that are out of order or do not start at 0, or turns of groups that do not exist.
    """
    listed = _listed(given)
    if not any(isinstance(one, Phase) for one in listed):
        return ((0, _turns(listed, groups)),)
    if not all(isinstance(one, Phase) for one in listed):
        raise ValueError("phases and turns side by side: put the turns of each phase into a Phase")
    starts = [phase.start for phase in listed]
    if starts[0] != 0 or sorted(set(starts)) != starts:
        raise ValueError(f"phases start at {starts}: the first at 0, each later than the one before")
    return tuple((phase.start, _turns(_listed(phase.turns), groups)) for phase in listed)


def _listed(given: Any) -> tuple:
    """One item or several as a tuple; an optimizer, a tuple itself, counts as one item."""
    several = isinstance(given, list | tuple) and not isinstance(given, Objective | optax.GradientTransformation)
    return tuple(given) if several else (given,)


def _turns(listed: Sequence[Any], groups: int) -> tuple[Turn, ...]:
    bare = [one for one in listed if not isinstance(one, Turn)]
    if bare and len(listed) not in (1, groups):
        raise ValueError(
            f"{len(listed)} objectives for {groups} optimizers: give one of each, or Turn(objective, by=(...)) for each"
        )
    if len(listed) == 1 and bare:
        listed = [Turn(listed[0], by=tuple(range(groups)))]
    turns = tuple(one if isinstance(one, Turn) else Turn(one, by=(i,)) for i, one in enumerate(listed))
    for turn in turns:
        wrong = [i for i in turn.by if not 0 <= i < groups]
        if wrong:
            raise ValueError(f"by={turn.by}: there is no group {wrong[0]}, the optimizers are 0 to {groups - 1}")
    return turns


def groups_of(tx: Any, trainable: Any) -> tuple[tuple[optax.GradientTransformationExtraArgs, ...], tuple[Mask, ...]]:
    """One optimizer and one mask per group.

    Raises:
      ValueError: for different numbers of masks and optimizers.
      TypeError: for a value that is not an optimizer or not a mask.
    """
    txs = _listed(tx)
    for one in txs:
        if not isinstance(one, optax.GradientTransformation):
            wrapper = hasattr(one, "gradient_transformation")  # such as optax.MultiSteps
            right = "its .gradient_transformation()" if wrapper else "one of optax, as optax.adam(1e-3)"
            raise TypeError(f"tx={one!r} is no optimizer: give {right}")
    masks = (select(".*"),) if trainable is None else _listed(trainable)
    if any(isinstance(one, str) for one in masks):
        patterns = ", ".join(repr(one) for one in masks if isinstance(one, str))
        raise TypeError(f"trainable={trainable!r} has patterns where masks belong: give jtl.select({patterns})")
    for one in masks:
        if not (callable(one) or isinstance(one, Mapping)):
            raise TypeError(f"trainable={trainable!r} is no mask: give jtl.select(...), as jtl.select('head/.*')")
    if len(masks) != len(txs):
        raise ValueError(f"{len(txs)} optimizers, {len(masks)} masks: give one mask each, of parameters of their own")
    return tuple(optax.with_extra_args_support(one) for one in txs), masks


def owners(params: Params, masks: Sequence[Mask]) -> dict[str, int]:
    """The group that owns each trainable parameter, by path.

    Raises:
      ValueError: for a parameter that two groups own, with its path.
    """
    found: dict[str, int] = {}
    for i, mask in enumerate(masks):
        for path, mine in flatten(mask(params) if callable(mask) else mask).items():
            if mine and path in found:
                raise ValueError(
                    f"{path!r} is of groups {found[path]} and {i}: an optimizer owns its parameters alone; let"
                    " objectives share a group, as Turn(objective, by=(0,))"
                )
            if mine:
                found[path] = i
    return found

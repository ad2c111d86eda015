"""Functions of the state that run between steps."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax

from jtl.train.state import State, copied


class Refresh(NamedTuple):
    """A function of the state that runs between steps, such as for new pseudo-labels, or a restart of an optimizer.

    Args:
      run: `run(state) -> state`, of the same shapes and types; a function of the state alone, so that a resumed run
        ends with the same bits. It may compile programs of its own.
      every: the period in steps: `run` is called before step 0 and after every `every` steps, also when a run resumes
        at such a step.

    Example:
      >>> import jtl
      >>> refresh = jtl.Refresh(lambda state: state, every=100)
    """

    run: Callable[[State], State]
    every: int


def refreshed(refresh: Refresh, state: State) -> State:
    """The state after a refresh, in buffers of its own with the shardings that the step expects."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    with jax.transfer_guard("allow"):
        found = refresh.run(state)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, state, custom_message="the state of a refresh")
        return jax.jit(copied, out_shardings=places)(found)

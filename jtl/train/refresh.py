"""Functions of the state that run between steps."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax

from jtl.train.state import State, copied


class Refresh(NamedTuple):
    """A function of the state that runs between steps: new pseudo-labels, an optimizer that starts again.

    Args:
      run: `run(state) -> state`, of the same shapes and types; a function of the state alone, so that a resumed run
        ends with the same bits. It may compile programs of its own.
      every: it runs before step 0 and after each `every` steps. A run that is resumed there runs it too.

    Example:
      >>> import jtl
      >>> refresh = jtl.Refresh(lambda state: state, every=100)
    """

    run: Callable[[State], State]
    every: int


def refreshed(refresh: Refresh, state: State) -> State:
    """The state of a refresh, in buffers of its own where the step expects them."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    with jax.transfer_guard("allow"):
        found = refresh.run(state)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, state, custom_message="the state of a refresh")
        return jax.jit(copied, out_shardings=places)(found)

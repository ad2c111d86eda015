"""What the processes of a run agree on when they save and restore."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def agreed(number: int) -> int:
    """The number that process 0 passes, in every process."""
    if jax.process_count() == 1:
        return number
    with jax.transfer_guard("allow"):
        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def anywhere(here: bool) -> bool:
    """Whether `here` is true in any process."""
    if jax.process_count() == 1:
        return here
    with jax.transfer_guard("allow"):
        return bool(np.any(multihost_utils.process_allgather(np.bool_(here))))


def meet(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

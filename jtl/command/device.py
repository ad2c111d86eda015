"""The device that a run uses."""

from collections.abc import Callable
from typing import Any

import jax


def tell_first(say: Callable[[str], Any]) -> None:
    """Tells that a run uses the first device alone, where there are others.

    Args:
      say: is told.
    """
    if (count := jax.device_count()) > 1:
        say(f"{count} devices, of which this run uses the first: jtl.fit trains on all of them, in Python")

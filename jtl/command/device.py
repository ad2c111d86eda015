"""The device that a run uses."""

from collections.abc import Callable
from typing import Any

import jax


def tell_first(say: Callable[[str], Any]) -> None:
    """Reports that a run uses only the first device, if there are several.

    Args:
      say: is called with the message.
    """
    if (count := jax.device_count()) > 1:
        say(f"{count} devices, of which this run uses the first: jtl.fit trains on all of them, in Python")

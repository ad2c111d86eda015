"""Checks of numbers that update rules and ways to adapt are given; arrays and traced numbers are not checked."""

import math
from numbers import Real
from typing import Any

from jtl.checked import whole as whole


def positive(**numbers: Any) -> None:
    """Raises if a number is not positive and finite.

    Raises:
      ValueError: naming the first such number and its value.
    """
    for name, value in numbers.items():
        if _known(value) and not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: must be positive and finite")


def rate(inner_lr: Any) -> None:
    """Raises if a learning rate is negative or not finite; 0, which changes nothing, is allowed.

    Raises:
      ValueError: naming its value.
    """
    if _known(inner_lr) and not 0 <= inner_lr < math.inf:
        raise ValueError(f"inner_lr={inner_lr}: a learning rate is 0 or more, and finite")


def _known(value: Any) -> bool:
    return isinstance(value, Real)

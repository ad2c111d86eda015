"""Checks of numbers that several rooms are called with; each error names the number and its value."""

from numbers import Integral
from typing import Any


def whole(least: int, **numbers: Any) -> None:
    """Refuses what is no integer, or less than the least that makes sense.

    Raises:
      ValueError: naming the first such number and its value.

    Example:
      >>> from jtl.checked import whole
      >>> whole(1, way=5, shot=1)
    """
    for name, value in numbers.items():
        if not integer(value) or value < least:
            raise ValueError(f"{name}={value}: must be an integer of at least {least}")


def integer(value: Any) -> bool:
    """Whether it is an integer, of Python or numpy; a bool is none.

    Example:
      >>> from jtl.checked import integer
      >>> integer(2), integer(2.0), integer(True)
      (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)

"""Checks of numeric arguments, used throughout jtl; each error names the number and its value."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

Interval: TypeAlias = Literal[
    "[0, 1]", "[0, 1)", "(0, 1]", "(0, 1)", "[0, inf)", "[0, inf]", "[1, inf)", "[1, inf]", "(-inf, inf)"
]
INSIDE = {
    "[0, 1]": lambda value: 0 <= value <= 1,
    "[0, 1)": lambda value: 0 <= value < 1,
    "(0, 1]": lambda value: 0 < value <= 1,
    "(0, 1)": lambda value: 0 < value < 1,
    "[0, inf)": lambda value: 0 <= value < np.inf,
    "[0, inf]": lambda value: value >= 0,
    "[1, inf]": lambda value: value >= 1,
    "[1, inf)": lambda value: 1 <= value < np.inf,
    "(-inf, inf)": lambda value: -np.inf < value < np.inf,
}
"""Whether a value lies in an interval; NaN lies in none."""


def whole(least: int, **numbers: Any) -> None:
    """Refuses a value that is not an integer, or is less than `least`.

    Raises:
      ValueError: naming the first such number and its value.

    Example:
      >>> from jtl.checked import whole
      >>> whole(1, way=5, shot=1)
    """
    for name, value in numbers.items():
        if not integer(value) or value < least:
            raise ValueError(f"{name}={_shown(value)}: must be an integer of at least {least}")


def within(interval: Interval, **numbers: Any) -> None:
    """Refuses a value that is not a number in an interval; NaN is in none. A number that jax traces is not checked.

    Raises:
      ValueError: naming the first such number and its value.

    Example:
      >>> from jtl.checked import within
      >>> within("[0, 1)", dropout=0.1)
      >>> within("[0, 1)", dropout=float("nan"))
      Traceback (most recent call last):
      ValueError: dropout=nan: must be a number in [0, 1)
    """
    for name, value in numbers.items():
        if not isinstance(value, Tracer) and not (real(value) and INSIDE[interval](value)):
            raise ValueError(f"{name}={_shown(value)}: must be a number in {interval}")


def positive(**numbers: Any) -> None:
    """Refuses a value that is not a finite number above 0; a number that jax traces is not checked.

    Raises:
      ValueError: naming the first such number and its value.

    Example:
      >>> from jtl.checked import positive
      >>> positive(temperature=0.1)
    """
    for name, value in numbers.items():
        if not isinstance(value, Tracer) and not (real(value) and 0 < value < np.inf):
            raise ValueError(f"{name}={_shown(value)}: must be positive and finite")


def ordered(**pair: float) -> None:
    """Refuses two numbers of which the first is the larger.

    Raises:
      ValueError: naming both, with their values.

    Example:
      >>> from jtl.checked import ordered
      >>> ordered(slowest=0.9, fastest=0.8)
      Traceback (most recent call last):
      ValueError: slowest=0.9 is above fastest=0.8
    """
    (low, a), (high, b) = pair.items()
    if a > b:
        raise ValueError(f"{low}={a} is above {high}={b}")


def seed_of(seed: Any) -> None:
    """Refuses a value that is not a seed for NumPy's generators: an integer of at least 0, or a sequence of them.

    None is refused too, because nobody could draw the same numbers again.

    Raises:
      ValueError: naming the seed.

    Example:
      >>> from jtl.checked import seed_of
      >>> seed_of(0)
      >>> seed_of([0, 2])
    """
    several = isinstance(seed, Sequence) and not isinstance(seed, str)
    whole(0, **(each("seed", seed) if several else {"seed": seed}))


def each(name: str, values: Iterable[Any]) -> dict[str, Any]:
    """The numbers of a sequence, named by their places, for the checks above.

    Example:
      >>> from jtl.checked import each, whole
      >>> whole(1, **each("widths", (8, 0)))
      Traceback (most recent call last):
      ValueError: widths[1]=0: must be an integer of at least 1
    """
    return {f"{name}[{place}]": value for place, value in enumerate(values)}


def integer(value: Any) -> bool:
    """Whether a value is an integer: of Python, of NumPy, or as an array without axes; a bool is not.

    Example:
      >>> from jtl.checked import integer
      >>> integer(2), integer(2.0), integer(True)
      (True, False, False)
    """
    if isinstance(value, np.ndarray | Array) and not isinstance(value, Tracer):
        return value.ndim == 0 and np.issubdtype(value.dtype, np.integer)
    return isinstance(value, Integral) and not isinstance(value, bool)


def real(value: Any) -> bool:
    """Whether a value is a real number: of Python, of NumPy, or as an array without axes; a bool is not.

    Example:
      >>> from jtl.checked import real
      >>> real(0.5), real(2), real(True), real("2")
      (True, True, False, False)
    """
    if isinstance(value, np.ndarray | Array | np.generic):  # ml_dtypes' bfloat16 is a number too
        return value.ndim == 0 and (np.issubdtype(value.dtype, np.integer) or jnp.issubdtype(value.dtype, np.floating))
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A string in quotes, so that "1" is not read as a number."""
    return repr(value) if isinstance(value, str) else str(value)

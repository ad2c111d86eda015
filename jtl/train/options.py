"""Checks of the options of a step and of a run, at the time they are given."""

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from jtl.checked import integer, real

_P = ParamSpec("_P")
_R = TypeVar("_R")


def counts_steps(fit: Callable[_P, _R]) -> Callable[_P, _R]:
    """`fit`, with a helpful error for `epochs=`, which other libraries have."""

    @functools.wraps(fit)
    def checked(*args: _P.args, **named: _P.kwargs) -> _R:
        if "epochs" in named:
            raise TypeError(
                f"epochs={named['epochs']}: fit counts steps; an epoch is len(data) of them, so give"
                f" steps={named['epochs']} * len(data)"
            )
        return fit(*args, **named)

    return checked


def at_least_one(value: Any, name: str, what: str) -> None:
    """Refuses a value that is not a whole number of at least 1.

    Args:
      value: the number.
      name: the name of the option.
      what: the text of the error for a number that is too small.

    Raises:
      TypeError: for another type, such as a float.
      ValueError: for a number below 1.

    Example:
      >>> from jtl.train.options import at_least_one
      >>> at_least_one(2.0, "steps", "a run takes at least one step")
      Traceback (most recent call last):
      TypeError: steps=2.0 is of type float: give a whole number
    """
    if not integer(value):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}: give a whole number")
    if value < 1:
        raise ValueError(f"{name}={value}: {what}")


def of_step(microbatch: Any, dtype: Any, clip: Any, ema: Any, frozen: Any) -> None:
    """Refuses options of `make_step` that have another type, or are out of range.

    Raises:
      TypeError: for a value that is not a number.
      ValueError: for numbers out of range, or a dtype in which a network does not compute.
    """
    at_least_one(microbatch, "microbatch", "the number of parts of a batch is at least 1")
    if clip is not None:
        _number(clip, "clip")
        if not 0 < clip < math.inf:
            raise ValueError(f"clip={clip}: the largest gradient norm must be positive and finite")
    if frozen not in ("evaluation", "training"):
        raise ValueError(f"frozen={frozen!r}: frozen modules run as in 'evaluation' or as in 'training'")
    if ema is not None:
        _number(ema, "ema")
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema}: the decay lies in [0, 1)")
    if dtype is not None:
        _floating(dtype)


def _number(value: Any, name: str) -> None:
    if not real(value):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}: give a number")


def _floating(dtype: Any) -> None:
    right = "give jnp.bfloat16, jnp.float16 or jnp.float32, or None for the parameters' own"
    try:
        found = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"dtype={dtype!r} is the name of no type: {right}") from error
    if not jnp.issubdtype(found, jnp.floating):
        raise ValueError(
            f"dtype={found.name}: parameters cast to it have no gradient, so nothing would be trained; {right}"
        )
    if dtype is not float and jax.dtypes.canonicalize_dtype(found) != found:  # jax decides what `float` is
        raise ValueError(f"dtype={found.name}: jax would compute in float32, because jax_enable_x64 is off; {right}")

"""Models of flax modules whose methods are called otherwise than they were written."""

from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn

from jtl.model import Model, Variables
from jtl.typing import Key, Output, Stats


class Interceptor(Protocol):
    """What flax calls in place of a method, `interceptor(run, args, kwargs, context)`; `run(*args, **kwargs)` is it.

    Args:
      count: how many calls it changed.
    """

    count: int

    def __call__(self, run: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """What the method, or what stands in for it, returns."""
        ...


def intercepted(model: Model, make: Callable[[], Interceptor], missing: str) -> Model:
    """The model whose modules' methods go through an interceptor, a new one for each call of `apply`.

    Args:
      model: of `from_linen`, or made of such.
      make: gives an interceptor.
      missing: what to say where it found nothing to change.

    Raises:
      ValueError: when called, where it found nothing to change.
    """

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        interceptor = make()
        with nn.intercept_methods(interceptor):
            out = model.apply(variables, x, train=train, key=key)
        if not interceptor.count:
            raise ValueError(missing)
        return out

    return Model(model.init, apply)

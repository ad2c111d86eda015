"""Interception: replaces method calls of the flax modules in a model."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn

from jtl._tracing import scope
from jtl.model import Model, Variables
from jtl.typing import Key, Output, Stats


@dataclass(frozen=True)
class Call:
    """One call of a module's method, and the call of the model that it is part of.

    Args:
      module: the module.
      method: name of the method.
      variables: variables of the whole intercepted model, including `adapter/...`, which no module reads.
      key: key that the model was called with; draw from `rng.stream(key, path)`, otherwise all modules draw the same
        numbers.
      train: whether the model is called in training mode.
      outside: the path at which the model itself is called.
    """

    module: nn.Module
    method: str
    variables: Variables
    key: Key | None
    train: bool
    outside: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Path of the module's parameters in `variables.params`, such as `image/block1/attention/query`."""
        return "/".join((*scope.path()[len(self.outside) :], *self.module.path))


class Interceptor(Protocol):
    """Is called in place of a method, `interceptor(run, args, kwargs, call)`; `run(*args, **kwargs)` calls the method.

    Args:
      count: the number of calls that it changed.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> class Doubled:
      ...     count = 0
      ...     def __call__(self, run, args, kwargs, call):
      ...         self.count += 1
      ...         return 2 * run(*args, **kwargs) if call.path == "out" else run(*args, **kwargs)
      >>> head, x = jtl.heads.linear(3), jnp.ones((2, 5))
      >>> start = head.init(jax.random.key(0), x)
      >>> doubled = jtl.transform.intercept.intercepted(head, Doubled, "it has no layer `out`")
      >>> bool((doubled.apply(start, x, train=False)[0] == 2 * head.apply(start, x, train=False)[0]).all())
      True
    """

    count: int

    def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        """Returns the result of the method, or its replacement."""
        ...


def intercepted(model: Model, make: Callable[[], Interceptor], missing: str) -> Model:
    """The model with its modules' methods called through an interceptor, a new one for each call of `apply`.

    Interceptors nest: if a model is intercepted twice, the later interceptor is called first, and its `run` is the
    earlier one. An interceptor's own parameters are under `adapter/`, next to those of the modules.

    Args:
      model: a model of `from_linen`, or made of such models.
      make: makes an interceptor.
      missing: the error message if it found nothing to change.

    Raises:
      ValueError: when called, if it found nothing to change.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.transform.intercept import intercepted
      >>> class Doubled:
      ...     count = 0
      ...     def __call__(self, run, args, kwargs, call):
      ...         if call.path != "stage2" or call.method != "__call__":
      ...             return run(*args, **kwargs)
      ...         self.count += 1
      ...         return 2 * run(*args, **kwargs)
      >>> net = jtl.backbones.mlp((8, 4))
      >>> variables, x = net.init(jax.random.key(0), jnp.ones((2, 3))), jnp.ones((2, 3))
      >>> twice = intercepted(net, Doubled, "there is no stage2").apply(variables, x, train=False)[0]["pooled"]
      >>> bool((twice == 2 * net.apply(variables, x, train=False)[0]["pooled"]).all())
      True
    """

    def apply(variables: Variables, x: Any, *, train: bool, key: Key | None = None) -> tuple[Output, Stats]:
        interceptor, outside = make(), scope.path()

        def intercept(run: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            call = Call(context.module, context.method_name, variables, key, train, outside)
            return interceptor(run, args, kwargs, call)

        with nn.intercept_methods(intercept):
            out = model.apply(variables, x, train=train, key=key)
        if not interceptor.count:
            raise ValueError(missing)
        return out

    return model._replace(apply=apply, parts=None)


def on_outputs(model: Model, pattern: str, change: Callable[[Any, Call], Any], missing: str) -> Model:
    """The model with the output y of each module that a regex matches replaced by `change(y, call)`.

    Args:
      model: a model of `from_linen`, or made of such models.
      pattern: regex that matches whole module paths, such as `stage./conv`.
      change: maps the output of a module, and the call of its `__call__`, to another output.
      missing: the error message if no module matches.

    Raises:
      ValueError: when called, if no module matches.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.transform.intercept import on_outputs
      >>> net, x = jtl.backbones.mlp((8, 4)), jnp.ones((2, 3))
      >>> variables = net.init(jax.random.key(0), x)
      >>> twice = on_outputs(net, "stage2", lambda y, call: 2 * y, "there is no stage2")
      >>> y, doubled = (n.apply(variables, x, train=False)[0]["pooled"] for n in (net, twice))
      >>> bool((doubled == 2 * y).all())
      True
    """
    chosen = re.compile(pattern)

    class Changing:
        count = 0

        def __call__(self, run: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
            y = run(*args, **kwargs)
            if call.method != "__call__" or not chosen.fullmatch(call.path):
                return y
            self.count += 1
            return change(y, call)

    return intercepted(model, Changing, missing)


class OnEach:
    """The base of interceptors whose `count` is positive only if they saw every wanted module.

    Otherwise an adapter in a module that is never called would silently have no effect.

    Args:
      wanted: the paths of modules.

    Example:
      >>> import jax, jax.numpy as jnp, jtl
      >>> from jtl.transform.intercept import OnEach, intercepted
      >>> wanted = frozenset({"stage1", "stage2"})
      >>> class Doubled(OnEach):
      ...     def __call__(self, run, args, kwargs, call):
      ...         if call.path not in wanted or call.method != "__call__":
      ...             return run(*args, **kwargs)
      ...         self.saw(call.path)
      ...         return 2 * run(*args, **kwargs)
      >>> net, x = jtl.backbones.mlp((8, 4)), jnp.ones((2, 3))
      >>> changed = intercepted(net, lambda: Doubled(wanted), "not both stages are called")
      >>> changed.apply(net.init(jax.random.key(0), x), x, train=False)[0]["pooled"].shape
      (2, 4)
    """

    def __init__(self, wanted: frozenset[str]) -> None:
        self.count, self._wanted, self._seen = 0, wanted, set[str]()

    def saw(self, path: str) -> None:
        """Records that a wanted module was called."""
        self._seen.add(path)
        self.count = int(self._seen == self._wanted)

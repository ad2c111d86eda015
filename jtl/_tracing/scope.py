"""What is known while a loss is traced: the path of the part being called, frozen modules, unrounded parameters."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import jax

_PATH: ContextVar[tuple[str, ...]] = ContextVar("path", default=())
_FROZEN: ContextVar[frozenset[str]] = ContextVar("frozen", default=frozenset())
_FULL: ContextVar[Mapping[int, tuple[Any, Any]]] = ContextVar("full", default=MappingProxyType({}))


def path() -> tuple[str, ...]:
    """The names of the parts that are being called, the outermost first."""
    return _PATH.get()


@contextmanager
def within(name: str) -> Iterator[None]:
    """While entered, `path` ends with the name of this part.

    A model that calls others with `params[name]` as their parameters enters it, so that an interceptor knows which of
    them it sees.
    """
    token = _PATH.set((*_PATH.get(), name))
    try:
        yield
    finally:
        _PATH.reset(token)


@contextmanager
def training(trains: Mapping[str, bool]) -> Iterator[None]:
    """While entered, `frozen` says of which modules no parameter is trained.

    Args:
      trains: whether each parameter is trained, by its path.
    """
    some = {above for path, learns in trains.items() if learns for above in _above(path)}
    token = _FROZEN.set(frozenset(above for path in trains for above in _above(path) if above not in some))
    try:
        yield
    finally:
        _FROZEN.reset(token)


def nothing_frozen() -> AbstractContextManager[None]:
    """While entered, every module runs in the mode that it is called in.

    Adapting to a task, and the judgement after it, are done again after training, where nobody knows what was frozen.
    """
    return training({})


def frozen(module: tuple[str, ...] = ()) -> bool:
    """Whether a module, by its path below `path`, has parameters and none of them is trained."""
    return "/".join((*_PATH.get(), *module)) in _FROZEN.get()


def any_frozen() -> bool:
    """Whether there is a module of which no parameter is trained."""
    return bool(_FROZEN.get())


@contextmanager
def rounded(full: Any, low: Any) -> Iterator[None]:
    """While entered, `unrounded` knows the leaves of the tree `full` by those of the tree `low`, its cast."""
    pairs = zip(jax.tree.leaves(low), jax.tree.leaves(full), strict=True)
    token = _FULL.set({id(a): (a, b) for a, b in pairs})  # with `a` kept alive, so that no other has its id
    try:
        yield
    finally:
        _FULL.reset(token)


def unrounded(tree: Any) -> Any:
    """The tree with the full-precision leaf in place of each that a step has cast; any other leaf stays as it is.

    Leaves are known by identity: those that an objective computes itself, as after an inner step, are its own.
    """
    known = _FULL.get()
    return jax.tree.map(lambda a: known[id(a)][1] if id(a) in known else a, tree)


def _above(path: str) -> list[str]:
    """The modules that a parameter belongs to: `a/b` and `a` for `a/b/kernel`."""
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]

"""What is known while a loss is traced: the path of the part being called, frozen modules, unrounded parameters."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import jax

_PATH: ContextVar[tuple[str, ...]] = ContextVar("path", default=())
_TRAINS: ContextVar[tuple[Mapping[str, bool], frozenset[str]]] = ContextVar("trains", default=({}, frozenset()))
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_NOTES: ContextVar[set[str] | None] = ContextVar("notes", default=None)
_FULL: ContextVar[Mapping[int, tuple[Any, Any]]] = ContextVar("full", default=MappingProxyType({}))


def path() -> tuple[str, ...]:
    """The names of the parts that are being called, the outermost first."""
    return _PATH.get()


@contextmanager
def _set(variable: ContextVar, value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def within(name: str) -> AbstractContextManager[None]:
    """While entered, `path` ends with the name of this part.

    A model that calls others with `params[name]` as their parameters enters it, so that an interceptor knows which of
    them it sees.
    """
    return _set(_PATH, (*_PATH.get(), name))


def training(trains: Mapping[str, bool]) -> AbstractContextManager[None]:
    """While entered, `frozen` says of which modules no parameter is trained.

    Args:
      trains: whether each parameter is trained, by its path.
    """
    some = {module for path, learns in trains.items() if learns for module in modules_of(path)}
    return _set(_TRAINS, (trains, frozenset(module for path in trains for module in modules_of(path)) - some))


def in_place(prefix: str) -> AbstractContextManager[None]:
    """While entered, the parameters below a path stand in the place of those of the same names without it.

    Args:
      prefix: ends with a slash.
    """
    trains, _ = _TRAINS.get()
    own = {path.removeprefix(prefix): learns for path, learns in trains.items() if path.startswith(prefix)}
    return training({**trains, **own})


def nothing_frozen() -> AbstractContextManager[None]:
    """While entered, every module runs in the mode that it is called in.

    Adapting to a task, and the judgement after it, are done again after training, where nobody knows what was frozen.
    """
    return training({})


def frozen(module: tuple[str, ...] = ()) -> bool:
    """Whether a module, by its path below `path`, has parameters and none of them is trained."""
    return "/".join((*_PATH.get(), *module)) in _TRAINS.get()[1]


def any_frozen() -> bool:
    """Whether there is a module of which no parameter is trained."""
    return bool(_TRAINS.get()[1])


def without_dropout() -> AbstractContextManager[None]:
    """While entered, `quiet` is true: modules that no interceptor sees, those of flax.nnx, run without dropout."""
    return _set(_QUIET, True)


def quiet() -> bool:
    """Whether modules are to run without dropout in training mode too."""
    return _QUIET.get()


def noting(notes: set[str]) -> AbstractContextManager[None]:
    """While entered, `note` adds to this set: what a function did that was traced."""
    return _set(_NOTES, notes)


def note(what: str) -> None:
    """Tells whoever traces this, if anybody asked, what is done."""
    notes = _NOTES.get()
    if notes is not None:
        notes.add(what)


def rounded(full: Any, low: Any) -> AbstractContextManager[None]:
    """While entered, `unrounded` knows the leaves of the tree `full` by those of the tree `low`, its cast."""
    pairs = zip(jax.tree.leaves(low), jax.tree.leaves(full), strict=True)
    return _set(_FULL, {id(a): (a, b) for a, b in pairs})  # with `a` kept alive, so that no other has its id


def unrounded(tree: Any) -> Any:
    """The tree with the full-precision leaf in place of each that a step has cast; any other leaf stays as it is.

    Leaves are known by identity: those that an objective computes itself, as after an inner step, are its own.
    """
    known = _FULL.get()
    return jax.tree.map(lambda a: known[id(a)][1] if id(a) in known else a, tree)


def rounded_again(before: Any, after: Any) -> AbstractContextManager[None]:
    """While entered, `unrounded` knows the leaves of `after` as it knew those of `before`, the same numbers.

    For an objective that differentiates by itself, which makes new leaves of the parameters that it was given. The
    gradient reaches these through the full-precision leaf too.
    """

    def full(a: Any, b: Any) -> Any:
        (wide,) = jax.tree.leaves(unrounded(a))
        return b if wide is a else wide + (b - jax.lax.stop_gradient(b)).astype(wide.dtype)

    return rounded(jax.tree.map(full, before, after), after)


def modules_of(path: str) -> list[str]:
    """The modules that a parameter belongs to: `a/b` and `a` for `a/b/kernel`."""
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]

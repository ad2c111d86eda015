"""What is known while a loss is traced: the path of the part being called, frozen modules, unrounded parameters."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import jax

_PATH: ContextVar[tuple[str, ...]] = ContextVar("path", default=())
_TRAINS: ContextVar[Mapping[str, bool]] = ContextVar("trains", default=MappingProxyType({}))
_FROZEN: ContextVar[frozenset[str]] = ContextVar("frozen", default=frozenset())
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_NOTES: ContextVar[set[str] | None] = ContextVar("notes", default=None)
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
    known = _TRAINS.set(trains)
    token = _FROZEN.set(frozenset(above for path in trains for above in _above(path) if above not in some))
    try:
        yield
    finally:
        _FROZEN.reset(token)
        _TRAINS.reset(known)


def in_place(prefix: str) -> AbstractContextManager[None]:
    """While entered, the parameters below a path stand in the place of those of the same names without it.

    Args:
      prefix: ends with a slash.
    """
    trains = _TRAINS.get()
    own = {path.removeprefix(prefix): learns for path, learns in trains.items() if path.startswith(prefix)}
    return training({**trains, **own})


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
def without_dropout() -> Iterator[None]:
    """While entered, `quiet` is true: modules that no interceptor sees, those of flax.nnx, run without dropout."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def quiet() -> bool:
    """Whether modules are to run without dropout in training mode too."""
    return _QUIET.get()


@contextmanager
def noting(notes: set[str]) -> Iterator[None]:
    """While entered, `note` adds to this set: what a function did that was traced."""
    token = _NOTES.set(notes)
    try:
        yield
    finally:
        _NOTES.reset(token)


def note(what: str) -> None:
    """Tells whoever traces this, if anybody asked, what is done."""
    notes = _NOTES.get()
    if notes is not None:
        notes.add(what)


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


def rounded_again(before: Any, after: Any) -> AbstractContextManager[None]:
    """While entered, `unrounded` knows the leaves of `after` as it knew those of `before`, the same numbers.

    For an objective that differentiates by itself, which makes new leaves of the parameters that it was given. The
    gradient reaches these through the full-precision leaf too.
    """

    def full(a: Any, b: Any) -> Any:
        (wide,) = jax.tree.leaves(unrounded(a))
        return b if wide is a else wide + (b - jax.lax.stop_gradient(b)).astype(wide.dtype)

    return rounded(jax.tree.map(full, before, after), after)


def _above(path: str) -> list[str]:
    """The modules that a parameter belongs to: `a/b` and `a` for `a/b/kernel`."""
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]

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

OUTPUTS = "outputs "
"""The beginning of a note that a metric compared labels with outputs; the number of outputs follows."""


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

    A model that calls other models with `params[name]` as their parameters enters it, so that an interceptor knows
    which of them it sees.
    """
    return _set(_PATH, (*_PATH.get(), name))


def training(trains: Mapping[str, bool]) -> AbstractContextManager[None]:
    """While entered, `frozen` knows the modules of which no parameter is trained.

    Args:
      trains: for each path, whether the parameter is trained.
    """
    some = {module for path, learns in trains.items() if learns for module in modules_of(path)}
    return _set(_TRAINS, (trains, frozenset(module for path in trains for module in modules_of(path)) - some))


def in_place(prefix: str) -> AbstractContextManager[None]:
    """While entered, the parameters below `prefix` replace those of the same names without it.

    Args:
      prefix: a path that ends with a slash.
    """
    trains, _ = _TRAINS.get()
    own = {path.removeprefix(prefix): learns for path, learns in trains.items() if path.startswith(prefix)}
    return training({**trains, **own})


def nothing_frozen() -> AbstractContextManager[None]:
    """While entered, every module runs in the mode that it is called in.

    Adaptation to a task and the evaluation after it run again after training, when nobody knows what was frozen.
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
    """Whether modules should run without dropout even in training mode."""
    return _QUIET.get()


def noting(notes: set[str]) -> AbstractContextManager[None]:
    """While entered, `note` adds to this set what a traced function did."""
    return _set(_NOTES, notes)


def note(what: str) -> None:
    """Records what the traced function does, if a caller asked for it by `noting`."""
    notes = _NOTES.get()
    if notes is not None:
        notes.add(what)


def outputs_of(notes: set[str]) -> int | None:
    """The number of outputs that metrics compared labels with, by their notes; None if there is not exactly one."""
    found = [int(note.removeprefix(OUTPUTS)) for note in notes if note.startswith(OUTPUTS)]
    return found[0] if len(found) == 1 else None


def rounded(full: Any, low: Any) -> AbstractContextManager[None]:
    """While entered, `unrounded` finds the leaves of the tree `full` by those of `low`, its cast to lower precision."""
    pairs = zip(jax.tree.leaves(low), jax.tree.leaves(full), strict=True)
    return _set(_FULL, {id(a): (a, b) for a, b in pairs})  # with `a` kept alive, so that no other array gets its id


def unrounded(tree: Any) -> Any:
    """The tree with full-precision leaves in place of those that a step has cast; any other leaf stays as it is.

    Leaves are found by identity: leaves that an objective computes itself, as after an inner step, stay as they are.
    """
    known = _FULL.get()
    return jax.tree.map(lambda a: known[id(a)][1] if id(a) in known else a, tree)


def rounded_again(before: Any, after: Any) -> AbstractContextManager[None]:
    """While entered, `unrounded` finds the leaves of `after` as it found those of `before`, with the same numbers.

    For an objective that differentiates by itself, which turns the parameters that it was given into new leaves. The
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

"""The path of the part of a model that is being called or traced, and the modules whose parameters are frozen."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

_PATH: ContextVar[tuple[str, ...]] = ContextVar("path", default=())
_FROZEN: ContextVar[frozenset[str]] = ContextVar("frozen", default=frozenset())


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


def _above(path: str) -> list[str]:
    """The modules that a parameter belongs to: `a/b` and `a` for `a/b/kernel`."""
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]

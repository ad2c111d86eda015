"""The path of the part of a model that is being called or traced."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PATH: ContextVar[tuple[str, ...]] = ContextVar("path", default=())


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

"""Notes on exceptions that say where a user's function raised them."""

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def noted(doing: str) -> Generator[None, None, None]:
    """Adds a note of what was being done to any exception raised within, including an interrupt."""
    try:
        yield
    except BaseException as error:  # of any kind, because the code within is not ours; it is raised again
        error.add_note(f"while {doing}")
        raise

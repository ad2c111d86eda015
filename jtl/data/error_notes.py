"""What users' own functions raise says where it happened."""

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def noted(doing: str) -> Generator[None, None, None]:
    """Whatever is raised within, an interrupt too, goes on as it is, with a note of what was being done."""
    try:
        yield
    except BaseException as error:  # of any kind, as the code within is not ours; it is raised again
        error.add_note(f"while {doing}")
        raise

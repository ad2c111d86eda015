"""Files and texts that are given to a command."""

import os
from collections.abc import Sequence
from pathlib import Path


def files(inputs: Sequence[str]) -> list[Path]:
    """Each as a path.

    Raises:
      ValueError: for one that is no file.
    """
    for path in map(Path, inputs):
        if not path.is_file():
            raise ValueError(
                f"the file {str(path)!r} does not exist" if not path.exists() else f"{str(path)!r} is no file"
            )
    return [Path(given) for given in inputs]


def texts(inputs: Sequence[str]) -> list[str]:
    """Each as it is, or the lines of the file that it names.

    Raises:
      ValueError: for a file that is no text, or where there is no text at all.
    """
    found: list[str] = []
    for given in inputs:
        try:
            # Windows begins a file with a mark; a line ends where an editor says so, not at every separator of Unicode.
            lines = Path(given).read_text("utf-8-sig").split("\n") if os.path.isfile(given) else [given]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {given!r} is no text in UTF-8: {error}") from error
        found += [line for line in lines if line.strip()]
    if not found:
        raise ValueError("there is no text in what was given; give a sentence, or a file of them, one a line")
    return found

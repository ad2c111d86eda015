"""What the settings of all runs share; light, because `jtl --help` reads it."""

from pathlib import Path
from typing import Any

from jtl.paths import local


class RunSettings:
    """The base of the settings of one run; the fields are those of each command, in the order of its `--help`."""

    def check(self: Any) -> None:
        """Checks the fields that the settings of all runs have.

        Raises:
          ValueError: for a folder in a bucket, a column of texts and one of files, or a number out of its range.
        """
        if self.out is not None:
            local(self.out, "--out")  # refuses the address of a bucket
        one_column(None if self.text == type(self).text else self.text, self.file, ("text=", "file="))
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate}: give a number above zero")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: give 0 or more")

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def one_column(text: str | None, file: str | None, names: tuple[str, str] = ("--text ", "--file ")) -> None:
    """Refuses a column of texts beside one of files.

    Args:
      text: the column of texts; None where it is not given.
      file: likewise.
      names: what stands before both in the message.

    Raises:
      ValueError: naming both.
    """
    if text is not None and file is not None:
        both = f"{names[0]}{text!r} and {names[1]}{file!r}"
        raise ValueError(f"{both}: the examples of a table are texts or files; give one")

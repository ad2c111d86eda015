"""The base class of all runs' settings; light, because `jtl --help` imports it."""

from pathlib import Path
from typing import Any

from jtl.paths import local


class RunSettings:
    """The base of the settings of one run; each command defines the fields, in the order of its `--help`."""

    def check(self: Any) -> None:
        """Checks the fields that all settings have.

        Raises:
          ValueError: for a folder in a bucket, for both a column of texts and one of files, or a number out of range.
        """
        if self.out is not None:
            local(self.out, "--out")  # refuses the address of a bucket
        one_column(None if self.text == type(self).text else self.text, self.file, ("text=", "file="))
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate}: give a number above zero")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: give 0 or more")

    def as_json(self) -> dict[str, Any]:
        """Returns the settings as JSON-compatible values."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def one_column(text: str | None, file: str | None, names: tuple[str, str] = ("--text ", "--file ")) -> None:
    """Refuses a column of texts together with a column of files.

    Args:
      text: the column of texts; None if it is not given.
      file: the column of files; None if it is not given.
      names: the prefixes of both in the message.

    Raises:
      ValueError: naming both.
    """
    if text is not None and file is not None:
        both = f"{names[0]}{text!r} and {names[1]}{file!r}"
        raise ValueError(f"{both}: the examples of a table are texts or files; give one")

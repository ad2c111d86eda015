"""Records of a run's metrics: JSON lines, TensorBoard."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jtl.extras import NotInstalled
from jtl.paths import local
from jtl.replace import replace_file


@runtime_checkable
class Record(Protocol):
    """The interface of a record, to which `fit` writes metrics in process 0 only."""

    def start(self, step: int) -> None:
        """Called before the first step; `step` steps were taken before, by a run that this one resumes."""

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Called with the metrics of a step; `split` is "train" or "validation"."""

    def close(self) -> None:
        """Called after the last step, even if the run fails."""


class JsonLines:
    """One JSON object per line: `{"step": 3, "split": "train", "loss": 0.5}`.

    A resumed run drops the lines that the killed run wrote after the checkpoint, so each step is recorded once.

    Example:
      >>> import tempfile, jtl
      >>> record = jtl.JsonLines(tempfile.mkdtemp() + "/metrics.jsonl")
    """

    def __init__(self, path: str | Path):
        self.path = local(path, "path")
        self._file: Any = None

    def start(self, step: int) -> None:
        """Opens the file to append after the rows up to this step; later rows are dropped."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_json_lines(self.path) if row["step"] <= step] if self.path.exists() else []
        with _named(self.path):
            replace_file(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = open(self.path, "a", buffering=1)  # noqa: SIM115  (closed by close)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes one line.

        Raises:
          OSError: if it cannot be written, as on a full disk; the file is named.
        """
        with _named(self.path):
            self._file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with _named(self.path):
                self._file.close()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file in the error of a write: the system says only "No space left on device"."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class TensorBoard:
    """TensorBoard event files, through tensorboardX; tags are `train/loss`, `validation/accuracy`.

    Raises:
      NotInstalled: a ModuleNotFoundError, if tensorboardX is missing, naming the extra that installs it.

    Example:
      >>> import tempfile, jtl
      >>> record = jtl.TensorBoard(tempfile.mkdtemp())
    """

    def __init__(self, directory: str | Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            message = "TensorBoard records need tensorboardX: pip install 'jtl[tensorboard]'"
            raise NotInstalled(message, name="tensorboardX") from error
        self._make, self.directory, self._writer = SummaryWriter, local(directory, "directory"), None

    def start(self, step: int) -> None:
        """Starts an event file; events that an earlier run wrote after this step are hidden."""
        self._writer = self._make(str(self.directory), purge_step=step + 1)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Adds one scalar per metric."""
        assert self._writer is not None, "start() comes first"
        for name, value in metrics.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Writes out and closes the event file."""
        if self._writer is not None:
            self._writer.close()


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    r"""The rows of a `JsonLines` file; a last line that a killed process left half written is skipped.

    Raises:
      ValueError: for any other line that is not JSON, with its number.

    Example:
      >>> import pathlib, tempfile, jtl
      >>> file = pathlib.Path(tempfile.mkdtemp(), "metrics.jsonl")
      >>> size = file.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
      >>> jtl.train.read_json_lines(file)
      [{'step': 1, 'loss': 0.5}]
    """
    lines = local(path, "path").read_text().split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows += [json.loads(line)] if line else []
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}") from error
    return rows

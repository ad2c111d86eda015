"""The settings of one fine-tuning on a folder or a table; light, because `jtl --help` imports it."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from jtl.command.folders import folder_of, refuse_among, stem
from jtl.command.run_settings import RunSettings
from jtl.command.written import write_whole

EXAMPLES = ("data", "source", "target", "support")
"""The settings, of any command, that name examples."""
DONE, BEGUN = "run.json", "settings.json"
"""A run's file of settings and results, and its file of settings alone, which is written when training begins."""
CHECKPOINTS = ("checkpoints", "source/checkpoints")
"""The folders from which a killed run resumes."""
RECORDS = ("metrics.jsonl", "source/metrics.jsonl")
"""The files to which training adds a line at each step."""


@dataclass(frozen=True)
class Settings(RunSettings):
    """Fine-tune pretrained weights on a folder of images or sounds by class, or on a table of texts or files; writes a
    report.

    Without folders `train/`, `val/` and `test/`, or tables of these names, the data are split by `seed` within each
    class: 70, 15 and 15 percent.

    Each example has exactly one class, or, with `--task regression`, one number. To predict several numbers or labels
    per example, use `jtl.tasks.regression` and `jtl.tasks.multi_label` in Python.

    Args:
      data: a folder of class folders, or of `train/`, `val/`, `test/` with class folders; or a .csv, .tsv, .jsonl or
        .parquet.
      weights: a weight file, a folder, the folder of a run of `jtl finetune`, `hf:org/name` or `timm:name`.
      out: the run's folder; None: `runs/` and the name of the data.
      ways: what is trained: only the head, on features that are computed once; also the last stage; or everything. The
        head is a logistic or ridge regression, whose penalty is chosen by five-fold cross-validation, or by the
        validation examples if they are given.
      text: the column of the texts of a table.
      label: the column of the labels of a table.
      file: the column of the paths of images or sounds, for a table of files; relative to the table's folder.
      group: keeps each group in one split: a table's column, or a regex that is searched in the file names, such as
        "_(.*)_" for the speaker in `7_george_3.wav`.
      arch: the network's name, if the weight file does not give it and its tensor names fit several networks.
      size: side of the images in pixels; None: the weights' own.
      steps: training steps after the head is fitted; None: ten epochs, but at least 50 steps.
      batch: examples per step.
      learning_rate: the peak for ways "last" and "all".
      find_rate: use a tenth of the rate at the lowest loss of a range test (`jtl.lr_find`, on one device) instead of
        `learning_rate`.
      patience: stop after this many evaluations without a new best accuracy, with ties broken by the loss (of numbers,
        without a new lowest RMSE); there are ten to twenty evaluations in a run, and one per step if it has fewer.
      balanced: weight classes by the inverse of their frequency; not for numbers.
      seed: the seed of the split and of all other randomness.
      devices: train ways "last" and "all" on this many devices, each with an equal part of the batch; None: as many
        accelerators as divide it, or one CPU device.
      task: what the labels are: classes, or, with "regression", numbers in a table. Numbers are learned as multiples of
        their standard deviation, and predicted in their own unit.
    """

    data: Annotated[
        Positional[Path],
        arg(metavar="DATA", help="a folder of class folders, or a .csv, .tsv, .jsonl or .parquet of texts or files"),
    ]
    weights: str
    out: Path | None = None
    ways: Literal["head", "last", "all"] = "head"
    text: str = "text"
    label: str = "label"
    file: str | None = None
    group: str | None = None
    arch: str | None = None
    size: int | None = None
    steps: int | None = None
    batch: int = 32
    learning_rate: float = 2e-5
    find_rate: bool = False
    patience: int = 5
    balanced: bool = False
    seed: int = 0
    devices: int | None = None
    task: Literal["classification", "regression"] = "classification"

    def __post_init__(self) -> None:
        self.check()
        if self.task not in ("classification", "regression"):
            raise ValueError(f"task={self.task!r}: give 'classification' or 'regression'")
        if self.task == "regression" and self.balanced:
            raise ValueError("balanced=True with task='regression': numbers have no classes to be weighted")
        for name in ("size", "steps", "batch", "patience", "devices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        if self.ways == "head" and self.find_rate:
            raise ValueError(
                "find_rate with ways='head': the head alone is fitted without a learning rate; give other ways"
            )
        for name in ("learning_rate", "patience"):
            if self.ways == "head" and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"{name}={getattr(self, name)} with ways='head': the head alone is fitted to its optimum, so it has"
                    " none; give ways='last' or 'all'"
                )
        if self.ways == "head" and self.devices is not None:
            raise ValueError(
                f"devices={self.devices} with ways='head': the head alone is fitted on one device; give ways='last' or"
                " 'all', or omit devices"
            )
        if self.ways == "head" and self.steps is not None:
            raise ValueError(
                f"steps={self.steps} with ways='head': the head alone is fitted to its optimum, without steps; give"
                " ways='last' or 'all', or omit steps"
            )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return folder_of(self.out, stem(self.data))


def write(folder: Path, content: dict[str, Any]) -> None:
    """Writes `run.json` into a run's folder."""
    _write(folder / DONE, content)


def begin(settings: Any, saver: Any, free: Sequence[str] = ("out", "steps", "devices")) -> None:
    """Writes the settings into `settings.json` of the run's folder when training begins.

    A killed run leaves this file next to its checkpoints, which do not record the initial weights. `refuse_another`
    compares it with the settings of a run that would resume from them.

    Args:
      settings: the run's settings, a dataclass with `folder` and `as_json`.
      saver: the run's `jtl.Checkpoints`; no other run can claim them meanwhile.
      free: see `refuse_another`.

    Raises:
      NotClaimed: a RuntimeError, if another run trains there.
      ValueError: if another run has left checkpoints there since this one checked.
    """
    with saver.claimed():
        refuse_another(settings, free)
        _forget(settings.folder)
        _write(settings.folder / BEGUN, {"settings": settings.as_json()})


def clear(folder: Path) -> None:
    """Removes what a run left that was killed before its first checkpoint, for a run that trains nothing.

    Raises:
      NotClaimed: a RuntimeError, if that run is not killed and trains there.
    """
    from jtl.train.checkpoint.claim import claimed

    with ExitStack() as stack:
        for place in CHECKPOINTS:
            if (folder / place).is_dir():
                stack.enter_context(claimed(folder / place))
        _forget(folder)


def _forget(folder: Path) -> None:
    """Removes the settings, records and network's description of a run without checkpoints, which nothing resumes."""
    from jtl.train.checkpoint.claim import NAME as LOCK
    from jtl.weights.formats.orbax import newest

    if not (folder / BEGUN).is_file() or any(newest(folder / place) for place in CHECKPOINTS):
        return
    described = [file for place in CHECKPOINTS for file in (folder / place).glob("*") if file.is_file()]
    for file in (*described, *(folder / name for name in (*RECORDS, BEGUN))):
        if file.name != LOCK:
            file.unlink(missing_ok=True)


def _write(file: Path, content: dict[str, Any]) -> None:
    write_whole(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def refuse_another(settings: Any, free: Sequence[str] = ("out", "steps", "devices")) -> None:
    """Refuses a folder that cannot be written, lies among the examples, or holds a run with other settings.

    It is called before anything is computed. A run with other settings would be replaced; only those in `free` may
    differ, such as the steps, which may be more, because a run can be continued.

    Args:
      settings: the run's settings, a dataclass with `folder` and `as_json`.
      free: the names of settings that may differ.

    Raises:
      ValueError: naming the settings that differ, another command's run, a file of these names that no run wrote, or
        why nothing can be written there.
    """
    from jtl.weights.formats.orbax import newest

    folder, now = settings.folder, settings.as_json()
    writable(folder)
    refuse_among(folder, [getattr(settings, name) for name in EXAMPLES if hasattr(settings, name)])
    for name, what in ((DONE, "another run"), (BEGUN, "another run, which is not finished")):
        then = (read(folder, name) or {}).get("settings", {})
        if name == BEGUN and not any(newest(folder / place) for place in CHECKPOINTS):
            continue  # it left nothing to resume from
        if then and not set(EXAMPLES) & set(then) & set(now):
            raise ValueError(f"{str(folder)!r} holds a run of another command: give --out another folder")
        if then:
            defaults = {field.name: field.default for field in dataclasses.fields(settings)}
            then = {**{name: defaults[name] for name in now}, **then}  # an older version's run had the default
        told = [f"{name} {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)]
        told = [line for line in told if line.split()[0] not in free]
        steps = then.get("steps"), now.get("steps")
        if "steps" in free and None not in steps and steps[1] < steps[0]:
            told.append(f"steps {steps[0]} -> {steps[1]}, and only more are allowed")
        if told:
            raise ValueError(f"{str(folder)!r} holds {what}, then -> now: {', '.join(told)}; give --out another folder")


def writable(folder: Path, option: str = "--out") -> None:
    """Checks that a folder can be created and written, by creating a temporary one at its place.

    Permissions are not enough to decide: a file system may be read-only, full, or accept no files at all, like /proc.

    Raises:
      ValueError: naming the option, and the file that is in the way, or the place where nothing can be written.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        raise ValueError(f"{option} {str(folder)!r}: {str(there)!r} is no folder; give another path")
    try:
        with tempfile.TemporaryDirectory(prefix=".jtl-", dir=there) as place:
            (Path(place) / "file").write_bytes(b"written")
    except OSError as error:
        raise ValueError(
            f"{option} {str(folder)!r}: nothing can be written in {str(there)!r} ({error.strerror}); give another"
            " folder"
        ) from error


def read(folder: Path, name: str = DONE) -> dict[str, Any] | None:
    """Reads `run.json`; returns None if the folder does not hold a finished run.

    Args:
      folder: the run's folder.
      name: the file to read; `settings.json` has the settings alone, of a run that has begun to train.

    Raises:
      ValueError: for a file that no run wrote, or that is damaged.
    """
    file = folder / name
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
            raise ValueError("it has no settings")
    except ValueError as error:  # raised for wrong JSON and for wrong UTF-8
        raise ValueError(
            f"{str(file)!r} is not as a run of jtl writes it: {error}; give another folder, or delete the file"
        ) from error
    return found

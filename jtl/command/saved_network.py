"""The network of a saved run: its weights, the columns of its tables, and the conversion of examples to its input."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl.command.model import Inputs, inputs_of
from jtl.command.run_settings import one_column
from jtl.command.settings import read
from jtl.command.unit import in_units
from jtl.model import Variables
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing
from jtl.pretrained.folded import unadvised
from jtl.pretrained.load import Pretrained, load
from jtl.train.checkpoint.checkpoints import Checkpoints

log = logging.getLogger("jtl.command")


def opened(folder: Path) -> tuple[Pretrained, str]:
    """Loads a saved network, also from checkpoints that describe it, and returns it with the kind of its inputs.

    Raises:
      ValueError: if it has no names of classes, or does not say how its inputs are preprocessed.
    """
    loaded = whole(folder)
    if loaded.labels is None:
        raise ValueError(f"{str(folder)!r} does not say the names of its classes: load it in Python, by jtl.load")
    if isinstance(loaded.preprocessing, Waves | LogMel):  # first: Whisper has a tokenizer too
        return loaded, "sounds"
    if loaded.tokenizer is not None:
        return loaded, "texts"
    if not isinstance(loaded.preprocessing, Preprocessing):
        raise ValueError(f"{str(folder)!r} does not say what its inputs go through; load it in Python, by jtl.load")
    return loaded, "images"


@unadvised()  # nothing is trained further
def whole(folder: Path) -> Pretrained:
    """Loads a saved network; from a run's checkpoints the best one, or the newest if none was scored.

    If a run keeps moving averages, these are taken, because its validation judged them. Other parts that a method
    trained next to the backbone and the head, such as a critic, are left out. A network of numbers that is in training
    learns them scaled; the returned one has the unit of the labels.
    """
    saver = Checkpoints(folder)
    if not saver.steps():
        return in_units(load(folder))
    found = saver.variables(step="newest" if saver.best() is None else "best")
    others = sorted(found.params.keys() - {"backbone", "head"})
    loaded = load(folder, unused=[f"{re.escape(top)}/.*" for top in others])
    mine = {top: jax.tree.map(np.asarray, found.params.get(top, {})) for top in ("backbone", "head")}
    return in_units(loaded._replace(variables=Variables(mine, jax.tree.map(np.asarray, found.stats))))


def chosen(saver: Checkpoints) -> str:
    """Says which checkpoint of a run is used, and which of its parameters; "" if there is none.

    Example:
      >>> import tempfile, jtl
      >>> chosen(jtl.Checkpoints(tempfile.mkdtemp()))
      ''
    """
    if not saver.steps():
        return ""
    best = saver.best()
    about = saver.about(step="newest" if best is None else "best")
    averages = any(name.startswith("ema/") for name in about["leaves"])
    which = "the newest, because none was scored" if best is None else "the best by its validation"
    return f"step {about['step']}, {which}" + "; the moving averages of its parameters" * averages


class Columns(NamedTuple):
    """The columns of tables, and the cell separator.

    Args:
      text: the column of texts.
      label: the column of labels.
      file: the column of paths of images or sounds; None if unknown.
      mark: the cell separator of the run's tables; None if unknown.
      option: `--text` or `--file`, with the column that the run used, for messages.
    """

    text: str
    label: str
    file: str | None
    mark: str | None
    option: str


def columns(folder: Path, *, text: str | None = None, label: str | None = None, file: str | None = None) -> Columns:
    """Returns the given columns, else those of the tables that the network was trained on, else "text" and "label".

    Args:
      folder: the folder of a saved network; if a run saved it, `run.json` next to it names the run's columns.
      text: the column of texts; None if it is not given.
      label: the column of labels; None if it is not given.
      file: the column of paths; None if it is not given.

    Raises:
      ValueError: for both a column of texts and one of files.
    """
    one_column(text, file)
    about = about_run(folder)
    run = {"text": "text", "label": "label", "file": None, **about.get("settings", {})}
    name, given = ("text", text) if file is None and run["file"] is None else ("file", file)
    option = f"--{name} (the run was trained on {run[name]!r})" if about and given is None else f"--{name}"
    texts, labels = run["text"] if text is None else text, run["label"] if label is None else label
    return Columns(texts, labels, run["file"] if file is None else file, about.get("mark"), option)


def about_run(folder: Path) -> dict[str, Any]:
    """Returns the content of `run.json` of a saved network's run; empty if there is no run."""
    if folder.name not in ("model", "checkpoints"):
        return {}
    try:
        return read(folder.parent) or {}
    except ValueError as error:  # another program may have written it
        log.warning("%s; until then a table's columns are 'text' and 'label', unless others are named", error)
        return {}


def inputs_as_saved(loaded: Pretrained, folder: Path, kind: str, items: Sequence[Any]) -> tuple[Inputs, Pretrained]:
    """Returns `inputs_of` with the settings of the run that saved the network."""
    seconds = about_run(folder).get("seconds") if kind == "sounds" else None
    return inputs_of(loaded, str(folder), kind, items, None, seconds=seconds)

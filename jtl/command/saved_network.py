"""The network of a saved run: its weights, the columns of its tables, and how its examples become input."""

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
from jtl.model import Variables
from jtl.preprocess.audio_spec import LogMel, Waves
from jtl.preprocess.image import Preprocessing
from jtl.pretrained.load import Pretrained, load
from jtl.train.checkpoint.checkpoints import Checkpoints

log = logging.getLogger("jtl.command")


def opened(folder: Path) -> tuple[Pretrained, str]:
    """A saved network, or that of checkpoints that say it, and the kind of its inputs.

    Raises:
      ValueError: where it has no classifier, or does not say what its inputs go through.
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


def whole(folder: Path) -> Pretrained:
    """A saved network; of a run's checkpoints the best one, or the newest where none was scored.

    Of a run that keeps moving averages these are taken, because its validation judged them. What a method trained
    beside the backbone and the head, as a critic, is left.
    """
    saver = Checkpoints(folder)
    if not saver.steps():
        return load(folder)
    found = saver.variables(step="newest" if saver.best() is None else "best")
    others = sorted(found.params.keys() - {"backbone", "head"})
    loaded = load(folder, unused=[f"{re.escape(top)}/.*" for top in others])
    mine = {top: jax.tree.map(np.asarray, found.params.get(top, {})) for top in ("backbone", "head")}
    return loaded._replace(variables=Variables(mine, jax.tree.map(np.asarray, found.stats)))


def chosen(saver: Checkpoints) -> str:
    """Which checkpoint of a run is used, and which of its parameters; "" where there is none.

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
    """The columns of tables, and what stands between their cells.

    Args:
      text: of the texts.
      label: of the labels.
      file: of the paths of images or sounds; None where it is not known.
      mark: what a run's tables had; None where it is not known.
      option: `--text` or `--file`, and what the run had there, for messages.
    """

    text: str
    label: str
    file: str | None
    mark: str | None
    option: str


def columns(folder: Path, *, text: str | None = None, label: str | None = None, file: str | None = None) -> Columns:
    """The columns that are given, else those of the tables that the network was trained on, else "text" and "label".

    Args:
      folder: of a saved network; where it is that of a run, what the run read stands in `run.json` beside it.
      text: None where it is not given.
      label: likewise.
      file: likewise.

    Raises:
      ValueError: for a column of texts and one of files.
    """
    one_column(text, file)
    about = about_run(folder)
    run = {"text": "text", "label": "label", "file": None, **about.get("settings", {})}
    name, given = ("text", text) if file is None and run["file"] is None else ("file", file)
    option = f"--{name} (the run was trained on {run[name]!r})" if about and given is None else f"--{name}"
    texts, labels = run["text"] if text is None else text, run["label"] if label is None else label
    return Columns(texts, labels, run["file"] if file is None else file, about.get("mark"), option)


def about_run(folder: Path) -> dict[str, Any]:
    """What the run of a saved network wrote into `run.json`; empty where there is no run."""
    if folder.name not in ("model", "checkpoints"):
        return {}
    try:
        return read(folder.parent) or {}
    except ValueError as error:  # it may be of another program, beside a network that no run wrote
        log.warning("%s; until then a table's columns are 'text' and 'label', unless others are named", error)
        return {}


def inputs_as_saved(loaded: Pretrained, folder: Path, kind: str, items: Sequence[Any]) -> tuple[Inputs, Pretrained]:
    """How examples become input as they did in the run that saved the network."""
    seconds = about_run(folder).get("seconds") if kind == "sounds" else None
    return inputs_of(loaded, str(folder), kind, items, None, seconds=seconds)

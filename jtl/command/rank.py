"""Ranks pretrained networks for a data set by scores of their features, without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl.command import passes, source
from jtl.command.file_tables import hint
from jtl.command.model import inputs_of, pretrained
from jtl.command.pictures import refuse_broken
from jtl.command.run_settings import one_column
from jtl.command.runs import weights_of
from jtl.command.scores import softmax
from jtl.command.source import Examples
from jtl.heads import reading
from jtl.pretrained.load import Pretrained
from jtl.report.tables import Table
from jtl.selection.ranking import Scores, scores

NAMES = {"logme": "LogME", "h_score": "H-score", "transrate": "TransRate", "nce": "NCE", "leep": "LEEP"}


class Ranked(NamedTuple):
    """The scores of one network.

    Args:
      model: its weights, as they were given.
      width: the width of its features.
      scores: its scores; `nce` and `leep` are None if it has no classifier of its own.
      note: why it has no classifier; "" if it has one.
      told: a note for the user about the examples, for example that only the beginning of some is read; else None.
    """

    model: str
    width: int
    scores: Scores
    note: str = ""
    told: str | None = None


def rank(
    data: Path,
    models: Sequence[str],
    *,
    by: str = "logme",
    text: str = "text",
    label: str = "label",
    size: int | None = None,
    per_class: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    file: str | None = None,
) -> list[Ranked]:
    """Ranks networks by a score of their features, the best first; if the data are split, on `train`.

    Args:
      data: a folder of class folders, or a table of texts or files.
      models: weights, as for `jtl finetune`; a run's folder stands for its network.
      by: the score that orders them, a name of `Scores`; networks without it come last.
      text: the column of texts in a table.
      label: the column of labels in a table.
      size: side of the images in pixels; None for each network's own.
      per_class: at most this many examples of each class, drawn by the seed; None for all.
      seed: the seed of the draw.
      cache: a folder that keeps the features; see `jtl.finetuning.Cache`.
      file: the column of paths in a table of images or sounds.

    Raises:
      FileNotFoundError: for data or weights that do not exist.
      ValueError: for no models, a model given twice, an unknown score, `per_class` below 1, or both a column of texts
        and one of files; for data or weights that do not fit, naming the model.
    """
    if not models or len(set(models)) < len(models):
        raise ValueError(
            f"{len(models)} models, {len(set(models))} of them different: give each once, and at least one"
        )
    if by not in NAMES:
        raise ValueError(f"by={by!r}: give one of {', '.join(NAMES)}")
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class={per_class}: give at least 1")
    one_column(None if text == "text" else text, file)
    found = source.read(data, text=text, label=label, file=file)
    examples = found.get("train", found.get("all"))
    assert examples is not None
    if per_class is not None:
        examples = examples.rows(_drawn(examples.labels, per_class, seed))
    if examples.kind == "images":
        refuse_broken(examples.items)  # here, because errors below are attributed to a model
    more = hint(examples.kind, examples.items, data, text)
    ranked = []
    for model in models:
        try:
            ranked.append(_ranked(model, examples, size, cache, more))
        except ValueError as error:
            raise ValueError(f"{model}: {error}") from error

    def order(one: Ranked) -> float:
        value = getattr(one.scores, by)
        return float("inf") if value is None else -value

    return sorted(ranked, key=order)


def table(ranked: Sequence[Ranked]) -> Table:
    """Returns the scores as a table."""
    rows = [(one.model, str(one.width), *(_number(getattr(one.scores, name)) for name in NAMES)) for one in ranked]
    return Table("transferability, higher is better", ("model", "width", *NAMES.values()), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _drawn(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == c][:per_class] for c in np.unique(labels)]))


def _ranked(model: str, examples: Examples, size: int | None, cache: Path | None, more: str) -> Ranked:
    weights = weights_of(model)
    loaded, note = _loaded(weights, examples.kind, size, more)
    inputs, loaded = inputs_of(loaded, weights, examples.kind, examples.items, size, checked=True)
    told = inputs.note(examples.items)
    if note:
        seen: Any = passes.features(loaded, inputs, cache=cache)(examples.items)
        return Ranked(model, seen.shape[1], scores(seen, examples.labels), note, told)
    seen = passes.with_logits(loaded, inputs, cache=cache)(examples.items)
    probabilities = softmax(np.asarray(seen["logits"], np.float64))
    found = scores(seen["features"], examples.labels, probabilities)
    return Ranked(model, seen["features"].shape[1], found, told=told)


def _loaded(model: str, kind: str, size: int | None, more: str) -> tuple[Pretrained, str]:
    """Loads a network, with its own classifier if it has one; else also returns why it has none."""
    key = jax.random.key(0)
    try:
        loaded = pretrained(model, None, arch=None, kind=kind, key=key, size=size, hint=more)
    except ValueError as error:  # weights without a head load with a new one; others raise again
        loaded = pretrained(model, ("a", "b"), arch=None, kind=kind, key=key, size=size, hint=more)
        return loaded, f"it does not load with a classifier of its own: {str(error).splitlines()[0]}"
    if loaded.labels is not None and len(loaded.labels) == 1:
        return loaded, "its head predicts one number and no classes"
    if jax.tree.leaves(loaded.variables.params.get("head", {})):
        return loaded, ""
    if kind == "texts":
        loaded = loaded._replace(head=reading(loaded.head, "mean"))
    return loaded, "it has no classifier"

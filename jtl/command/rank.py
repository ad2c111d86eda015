"""Which of several pretrained networks suits a data set: scores of their features, without training."""

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
      model: as it was given.
      width: of its features.
      scores: `nce` and `leep` are None where it has no classifier of its own.
      note: why it has none.
      told: what the user should know of the examples, as that it reads only the beginning of some; None for nothing.
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
    """Networks in the order of a score of their features, the best first; of split data on the part `train`.

    Args:
      data: a folder of class folders, or a table of texts or files.
      models: weights, as of `jtl finetune`; of a run's folder its network.
      by: the score that orders them, a name of `Scores`; networks without it come last.
      text: a table's column of texts.
      label: a table's column of labels.
      size: side of images in pixels; None for each network's own.
      per_class: at most this many examples of each class, drawn by the seed; None for all.
      seed: of the draw.
      cache: a folder that keeps the features; see `jtl.finetuning.Cache`.
      file: a table's column of the paths of images or sounds.

    Raises:
      FileNotFoundError: for data or weights that are not there.
      ValueError: for no models, or one given twice, an unknown score, fewer than one example a class, a column of texts
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
        refuse_broken(examples.items)  # here, because an error below is told as one of a model
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
    """The scores as a table."""
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
    """A network with its own classifier; where it has none, why not."""
    key = jax.random.key(0)
    try:
        loaded = pretrained(model, None, arch=None, kind=kind, key=key, size=size, hint=more)
    except ValueError as error:  # weights without a head fit with a new one; others raise again below
        loaded = pretrained(model, ("a", "b"), arch=None, kind=kind, key=key, size=size, hint=more)
        return loaded, f"it does not load with a classifier of its own: {str(error).splitlines()[0]}"
    if jax.tree.leaves(loaded.variables.params.get("head", {})):
        return loaded, ""
    if kind == "texts":
        loaded = loaded._replace(head=reading(loaded.head, "mean"))
    return loaded, "it has no classifier"

"""Adapts pretrained weights from a labelled to an unlabelled folder or table, from files to a saved network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl import rng
from jtl.command import adaptations, labels, passes, source
from jtl.command import settings as files
from jtl.command.adapt_settings import AdaptSettings
from jtl.command.adapt_target import column_of, target_of
from jtl.command.adapt_training import FREE, Training, batch_of
from jtl.command.device import training_mesh
from jtl.command.file_tables import hint
from jtl.command.head import fitted_head
from jtl.command.model import Inputs, inputs_of, pretrained
from jtl.command.runs import weights_of
from jtl.command.scores import Scores, scored
from jtl.command.source import Examples, joined
from jtl.command.splits import shared, split
from jtl.model import Variables
from jtl.pretrained.folded import folded
from jtl.pretrained.load import Pretrained
from jtl.pretrained.save import save
from jtl.selection.validators.watch import MEAN_WEIGHT, ORACLE

FAR = 0.5
"""A mean importance weight of `label_free` below this, or above its inverse, is reported."""


@dataclass(frozen=True)
class Adapted:
    """The result of `run`.

    Args:
      folder: the run's folder: `model/`, `report.html`, `run.json`, and the files that training wrote.
      loaded: the network with the saved weights.
      before: the variables before training: pretrained, with a head that was fitted on the source.
      inputs: converts files or texts to the network's input.
      scores: label-free scores by name, under "before" and "after" adaptation.
      chosen: the step whose checkpoint was kept; 0 if no step had a better score than the weights before.
      source: the accuracy on the source's test examples, before and after.
      target: scores by the target's labels, before and after; None if they were not requested.
      history: the numbers of every step and validation.
      splits: the source's examples.
      unlabelled: the target's examples.
      notes: notes for the user about the data and the weights.
    """

    folder: Path
    loaded: Pretrained
    before: Variables
    inputs: Inputs
    scores: dict[str, dict[str, float]]
    chosen: int
    source: tuple[float, float]
    target: tuple[Scores, Scores] | None
    history: list[dict[str, Any]]
    splits: dict[str, Examples]
    unlabelled: Examples
    notes: list[str]


def run(settings: AdaptSettings, say: Callable[[str], Any] = print) -> Adapted:
    """Fits a head on the source, adapts, chooses the checkpoint by a score, and saves.

    Args:
      settings: the run's settings.
      say: is called with progress messages.

    Raises:
      FileNotFoundError: for data or weights that do not exist.
      ValueError: for data or weights that do not fit.
    """
    files.refuse_another(settings, FREE)
    names: dict[str, Any] = {"text": settings.text, "label": settings.label}
    splits = split(source.read(settings.source, **names, file=column_of(settings, settings.source)), settings.seed)
    train, key = splits["train"], jax.random.key(settings.seed)
    target = target_of(settings, train)
    if settings.watch == "mixval" and train.kind == "texts":
        raise ValueError("watch='mixval' mixes the numbers of two inputs, and the data are texts: watch another score")
    options = {"arch": settings.arch, "kind": train.kind, "size": settings.size}
    options["hint"] = hint(train.kind, train.items, settings.source, settings.text)
    weights = weights_of(settings.weights)
    loaded = pretrained(weights, train.classes, key=rng.stream(key, "head"), **options)
    if settings.method == "ada_bn" and (folded(loaded.variables) or not jax.tree.leaves(loaded.variables.stats)):
        has = "has no batch normalisation" if not folded(loaded.variables) else "has it folded into its convolutions"
        raise ValueError(
            f"method='ada_bn': the network of {settings.weights!r} {has}, so there are no statistics to replace; take"
            " another method or other weights"
        )
    own, judged = joined(list(splits.values())).items, target.judged
    others = () if judged is None else judged.items
    items = (*own, *target.examples.items)
    inputs, loaded = inputs_of(loaded, weights, train.kind, items, settings.size, others=others)
    say(f"{len(train.classes)} classes; {len(train)} source and {len(target.examples)} target examples")
    spread = training_mesh(batch_of(settings, splits, target), settings.devices, say)
    before = fitted_head(loaded, inputs, splits, say)
    told = [*labels.notes(train.names), *shared(splits)]
    notes = [*(f"source: {note}" for note in told), *(f"target: {note}" for note in target.notes)]
    parts = {"source": own, "target": target.examples.items}
    if others != target.examples.items:
        parts["the target's labelled examples"] = others
    for name, some in parts.items():
        if (note := inputs.note(some)) is not None:
            notes.append(f"{name}: {note}")
    if settings.watch in adaptations.MAXIMISED.get(settings.method, ()):
        notes.append(
            f"{settings.method} maximises {settings.watch!r} itself: this score cannot compare it with other methods or"
            " with the weights before adaptation; watch another score, such as clustering"
        )
        say(notes[-1])
    if settings.oracle:
        notes.append("ORACLE: the checkpoint was chosen by the labels of the target, which are unknown in practice")
    if folded(before):
        notes.append("batch normalisation is folded into these weights: its statistics and scales stay as they are")
    loaded = loaded._replace(variables=before)
    best, scores, chosen, history = Training(settings, loaded, inputs, splits, target, spread, say).run()
    if (mean := scores["after"].get(MEAN_WEIGHT, 1.0)) < FAR or mean > 1 / FAR:
        notes.append(
            f"the source's validation examples have the mean weight {mean:.2g} under the target, which is 1 where the"
            f" domains overlap: {settings.watch} rests on few examples; watch another score, such as clustering"
        )
        say(notes[-1])
    found: list[Any] = []
    for one in (before, best):
        logits = passes.logits(loaded._replace(variables=one), inputs)
        test = scored(logits(splits["test"].items), splits["test"].labels, train.classes)
        there = None if judged is None else scored(logits(judged.items), judged.labels, train.classes)
        found.append((test.accuracy, there))
    loaded = loaded._replace(variables=jax.tree.map(np.asarray, best))
    save(settings.folder / "model", loaded, format="jtl")
    content: dict[str, Any] = {
        "settings": settings.as_json(),
        "kind": train.kind,
        "mark": source.mark(settings.source, settings.text, settings.label, settings.file),
        "seconds": inputs.seconds,
        "classes": train.classes,
        "chosen": chosen,
        "oracle": settings.oracle,
        "scores": scores,
        "source_test_accuracy": {"before": found[0][0], "after": found[1][0]},
        "notes": notes,
    }
    both = None if judged is None else (found[0][1], found[1][1])
    if both is not None:
        content["target"] = {"before": both[0].numbers(), "after": both[1].numbers()}
    files.write(settings.folder, content)
    watched = ORACLE if settings.oracle else settings.watch
    say(f"{watched} {scores['before'][watched]:.4g} before, {scores['after'][watched]:.4g} after, step {chosen}")
    accuracies = found[0][0], found[1][0]
    return Adapted(
        settings.folder, loaded, before, inputs, scores, chosen, accuracies, both, history, splits, target.examples,
        notes,
    )  # fmt: skip

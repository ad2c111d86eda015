"""The report of an adaptation, as one HTML page."""

from pathlib import Path

import numpy as np

from jtl import report
from jtl.command import passes
from jtl.command.adapt import Adapted
from jtl.command.adapt_settings import LOW, AdaptSettings
from jtl.command.scores import softmax
from jtl.report.page import Page
from jtl.selection.validators.watch import ORACLE

SHOWN = 12
FEATURES = 300
"""How many examples of each domain have their features plotted."""


def write(settings: AdaptSettings, adapted: Adapted) -> Path:
    """Writes `report.html` into the run's folder.

    Args:
      settings: the run's settings.
      adapted: the run's result.
    """
    watched = ORACLE if settings.oracle else settings.watch
    before, after = (adapted.scores[when] for when in ("before", "after"))
    page = Page(f"{settings.source.name} to {settings.target.name} by {settings.method}")
    page.say(f"{watched} {before[watched]:.4g} → {after[watched]:.4g}", "big")
    how = "by the target's labels (ORACLE)" if settings.oracle else f"by {watched}, without a label of the target"
    kept = f"step {adapted.chosen}" if adapted.chosen else "the weights before adaptation: no step had a better score"
    page.say(f"Kept: {kept}, chosen {how}.")
    here = adapted.source
    page.say(f"On the source's test examples {100 * here[0]:.1f} % are right before, {100 * here[1]:.1f} % after.")
    for note in adapted.notes:
        page.say(note, "note")
    _features(page, adapted)
    page.heading("Scores")
    page.say("High is good" + (f", of {', '.join(LOW)} low." if set(LOW) & set(before) else "."))
    page.table(("score", "before", "after"), [(name, before[name], after[name]) for name in before])
    looks = [row for row in adapted.history if row["split"] == "validation" and watched in row]
    if len(looks) > 1:
        steps = np.arange(1, looks[-1]["step"] + 1)
        points = np.array([(row["step"], row[watched]) for row in looks]).T
        page.figure(
            lambda path: report.curves({watched: np.interp(steps, *points)}, path, ylabel=watched, title="by step"),
            f"{watched} by step",
        )
    if adapted.target is not None:
        _labelled(page, adapted)
    _examples(page, adapted)
    page.environment(settings.as_json())
    return page.write(settings.folder / "report.html")


def _features(page: Page, adapted: Adapted) -> None:
    """Plots the features that the head reads, for both domains, before and after."""
    parts, panels = {"source": adapted.splits["test"], "target": adapted.unlabelled}, {}
    for title, variables in (("before", adapted.before), ("after", adapted.loaded.variables)):
        read = passes.features(adapted.loaded._replace(variables=variables), adapted.inputs)
        panels[title] = {name: read(_some(part.items, FEATURES)) for name, part in parts.items()}
    page.heading("Features before and after")
    page.figure(
        lambda path: report.domains(panels, path),
        "features of source and target along their first two principal directions, before and after adaptation",
    )


def _labelled(page: Page, adapted: Adapted) -> None:
    """Shows the scores by the target's labels, which were used for no choice unless the report says ORACLE."""
    assert adapted.target is not None
    before, after = adapted.target
    page.heading("The target by its labels")
    count = len(after.labels)
    page.say(f"Accuracy {100 * before.accuracy:.1f} % before, {100 * after.accuracy:.1f} % after, of {count} examples.")
    then = {row[0]: row[2] for row in before.by_class()}
    rows = [(name, then[name], recall, precision, n) for name, precision, recall, _, n in after.by_class()]
    page.table(("class", "recall before", "recall after", "precision after", "examples"), rows)
    page.confusion(after.matrix, after.classes, "target's examples after adaptation")


def _examples(page: Page, adapted: Adapted) -> None:
    """Shows predictions on some of the target's examples."""
    items = _some(adapted.unlabelled.items, SHOWN)
    shares = softmax(passes.logits(adapted.loaded, adapted.inputs)(items))
    classes = adapted.unlabelled.classes
    page.heading("Some predictions on the target")
    said = [f"{classes[share.argmax()]} ({100 * share.max():.0f} %)" for share in shares]
    page.cards([(item, words, True) for item, words in zip(items, said, strict=True)])


def _some(items: tuple, count: int) -> list:
    """Returns up to `count` evenly spaced items."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]

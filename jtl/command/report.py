"""The report of a fine-tuning, as one HTML page."""

from pathlib import Path

import numpy as np

from jtl import report
from jtl.command.scores import interval
from jtl.command.settings import Settings
from jtl.command.tune import Tuned, trained_by
from jtl.params import select
from jtl.pretrained.folded import folded
from jtl.report.page import Page
from jtl.report.parameters import describe

SHOWN = 12
PAIRS = 20


def write(settings: Settings, tuned: Tuned) -> Path:
    """Writes `report.html` into the run's folder.

    Args:
      settings: the run's settings.
      tuned: the run's result.
    """
    page, test = Page(f"{settings.data.name}: {100 * tuned.test.accuracy:.1f} % on the test examples"), tuned.test
    page.say(f"{100 * test.accuracy:.1f} %", "big")
    low, high = interval(int(np.trace(test.matrix)), len(test.labels))
    page.say(
        f"of {len(test.labels)} test examples are classified right (95 % interval by the number of examples: "
        f"{100 * low:.1f} to {100 * high:.1f} %); of {len(tuned.validation.labels)} {tuned.judged}, "
        f"{100 * tuned.validation.accuracy:.1f} %. Kept: {tuned.chosen}."
    )
    if tuned.head is not None:
        page.say(f"The head: {tuned.head.told}.")
    for note in tuned.notes:
        page.say(note, "note")
    page.heading("Classes of the test examples")
    page.table(("class", "precision", "recall", "F1", "examples"), test.by_class())
    page.heading("Confusion matrix")
    page.confusion(test.matrix, test.classes, "test examples")
    if len(test.classes) > 2 and (pairs := test.confused()):
        page.heading("Classes that are taken for others")
        page.table(("class", "taken for", "examples", "share of the class"), pairs[:PAIRS])
    _curves(page, tuned)
    _examples(page, tuned)
    page.heading("Parameters")
    variables = tuned.loaded.variables
    trained = select(*trained_by(settings.ways, variables))
    rate = () if settings.ways == "head" else tuned.learning_rate  # another optimizer fits the head alone
    told = describe(
        variables.params, trained, learning_rate=rate, stats=variables.stats, frozen_stats=folded(variables)
    )
    page.code(told, told.splitlines()[-1])
    page.environment(settings.as_json())
    return page.write(settings.folder / "report.html")


def _curves(page: Page, tuned: Tuned) -> None:
    """Plots training and validation loss by step on one axis, and the learning-rate range test if there was one."""
    if tuned.rates is not None:
        page.heading("Learning rate")
        seen = tuned.rates
        page.figure(
            lambda path: report.curves(
                {"loss": seen.losses, "mean": seen.smoothed}, path, x=seen.rates, xlabel="learning rate"
            ),
            "the loss of steps whose learning rate rises",
        )
    lines = {
        name: [(row["step"], row["loss"]) for row in tuned.history if row["split"] == split]
        for name, split in (("training", "train"), ("validation", "validation"))
    }
    if not lines["training"]:
        return
    page.heading("Loss")
    steps = np.arange(1, lines["training"][-1][0] + 1)
    series = {name: np.interp(steps, *np.array(points).T) for name, points in lines.items() if points}
    page.figure(lambda path: report.curves(series, path, title="loss by step"), "training and validation loss by step")


def _examples(page: Page, tuned: Tuned) -> None:
    """Shows the most confident mistakes, and some predictions."""
    test, items = tuned.test, tuned.splits["test"].items
    wrong = test.mistakes()

    def card(i: int) -> tuple:
        said, share = test.classes[test.shares[i].argmax()], 100 * test.shares[i].max()
        true = test.classes[test.labels[i]]
        return items[i], f"{said} ({share:.0f} %)" + ("" if said == true else f", is {true}"), said == true

    page.heading(f"Mistakes: {len(wrong)} of {len(test.labels)}, the most certain first")
    page.cards([card(i) for i in wrong[:SHOWN]])
    page.heading("Some predictions")
    some = np.linspace(0, len(items) - 1, min(SHOWN, len(items))).round().astype(int)
    page.cards([card(int(i)) for i in some])

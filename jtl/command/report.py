"""The report of a fine-tuning, as one HTML page."""

from pathlib import Path

import numpy as np

from jtl import report
from jtl.command.settings import Settings
from jtl.command.tasks import TASKS
from jtl.command.tune import Tuned, trained_by
from jtl.params import select
from jtl.pretrained.folded import folded
from jtl.report.page import Page
from jtl.report.parameters import describe


def write(settings: Settings, tuned: Tuned) -> Path:
    """Writes `report.html` into the run's folder.

    Args:
      settings: the run's settings.
      tuned: the run's result.
    """
    parts, test = TASKS[settings.task].report, tuned.test
    title, number, said = parts.headline(test, tuned.validation, tuned.judged)
    page = Page(f"{settings.data.name}: {title}")
    page.say(number, "big")
    page.say(f"{said} Kept: {tuned.chosen}.")
    if tuned.head is not None:
        page.say(f"The head: {tuned.head.told}.")
    for note in tuned.notes:
        page.say(note, "note")
    parts.tables(page, test, tuned.validation)
    _curves(page, tuned)
    parts.examples(page, test, tuned.splits["test"].items)
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

"""What the report of a fine-tuning shows of numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.command.class_report import SHOWN
from jtl.command.number_scores import NumberScores
from jtl.report.page import Page
from jtl.report.scatter import scatter


def headline(test: NumberScores, validation: NumberScores, judged: str) -> tuple[str, str, str]:
    """Returns the title's end, the large number, and the sentence below it."""
    base = test.baseline
    assert base is not None
    said = (
        f"in the unit of {test.name!r}, of {len(test.labels)} test examples. The mean of the training examples,"
        f" {test.mean:.4g}, as the prediction for each has an RMSE of {base.rmse:.4g}. Of {len(validation.labels)}"
        f" {judged}, the RMSE is {validation.rmse:.4g}."
    )
    return f"RMSE {test.rmse:.4g} on the test examples", f"RMSE {test.rmse:.4g}", said


def tables(page: Page, test: NumberScores, validation: NumberScores) -> None:
    """Adds the scores, and the predictions against the true numbers."""
    page.heading("Scores")
    rows = [
        (name, own, base, other)
        for (name, own, base), (_, other, _) in zip(test.rows(), validation.rows(), strict=True)
    ]  # fmt: skip
    page.table(("score", "test", "the training mean on test", "validation"), rows)
    page.say(f"RMSE and MAE are in the unit of {test.name!r}; the correlations have none.")
    page.heading("Predicted and true numbers")
    points = {"validation": (validation.labels, validation.predicted), "test": (test.labels, test.predicted)}
    page.figure(
        lambda path: scatter(points, path, name=test.name),
        f"predicted {test.name} against the true ones, of validation and test examples",
    )


def examples(page: Page, test: NumberScores, items: Sequence[Any]) -> None:
    """Shows the largest errors, and some predictions."""

    def card(i: int, right: bool) -> tuple:
        said = f"{test.predicted[i]:.4g}, is {test.labels[i]:.4g} (error {test.errors[i]:+.4g})"
        return items[i], said, right

    page.heading("Largest errors of the test examples")
    page.cards([card(i, False) for i in test.worst()[:SHOWN]])
    page.heading("Some predictions")
    some = np.linspace(0, len(items) - 1, min(SHOWN, len(items))).round().astype(int)
    page.cards([card(int(i), True) for i in some])

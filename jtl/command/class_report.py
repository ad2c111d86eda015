"""What the report of a fine-tuning shows of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.command.scores import Scores, interval
from jtl.report.page import Page

SHOWN = 12
PAIRS = 20


def headline(test: Scores, validation: Scores, judged: str) -> tuple[str, str, str]:
    """Returns the title's end, the large number, and the sentence below it."""
    low, high = interval(int(np.trace(test.matrix)), len(test.labels))
    said = (
        f"of {len(test.labels)} test examples are classified right (95 % interval by the number of examples: "
        f"{100 * low:.1f} to {100 * high:.1f} %); of {len(validation.labels)} {judged}, "
        f"{100 * validation.accuracy:.1f} %."
    )
    return f"{100 * test.accuracy:.1f} % on the test examples", f"{100 * test.accuracy:.1f} %", said


def tables(page: Page, test: Scores, validation: Scores) -> None:
    """Adds the scores of each class, the confusion matrix, and the classes that are confused most."""
    del validation
    page.heading("Classes of the test examples")
    page.table(("class", "precision", "recall", "F1", "examples"), test.by_class())
    page.heading("Confusion matrix")
    page.confusion(test.matrix, test.classes, "test examples")
    if len(test.classes) > 2 and (pairs := test.confused()):
        page.heading("Classes that are taken for others")
        page.table(("class", "taken for", "examples", "share of the class"), pairs[:PAIRS])


def examples(page: Page, test: Scores, items: Sequence[Any]) -> None:
    """Shows the most confident mistakes, and some predictions."""
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

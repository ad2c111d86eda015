"""The report on learning from a few examples, as one HTML page."""

from pathlib import Path

import numpy as np

from jtl.command.few import Few
from jtl.command.few_settings import FewShot
from jtl.report.page import Page

SHOWN = 60
"""The most examples in a section; a note gives the number of the others."""


def write(settings: FewShot, few: Few) -> Path:
    """Writes `report.html` into the run's folder.

    Args:
      settings: the run's settings.
      few: the run's result.
    """
    support, classes = few.support, few.support.classes
    page = Page(f"{settings.support.name}: {len(classes)} classes from {len(support)} examples")
    if len(few.right):
        page.say(f"{few.right.sum()} of {len(few.right)}", "big")
        page.say("examples are classified right by the other examples alone.")
    else:
        page.say("Each class has one example, so none can be left out to estimate the accuracy.", "note")
    for note in few.notes:
        page.say(note, "note")
    page.heading("Support set: each example, and its class by the others")
    rows = np.arange(len(support))
    page.cards([_card(few, int(i)) for i in rows[:SHOWN]])
    _rest(page, len(support))
    if few.query:
        page.heading("Predictions")
        best = few.shares.argmax(1)
        cards = [
            (item, f"{classes[k]} ({100 * share[k]:.0f} %)", True)
            for item, k, share in zip(few.query, best, few.shares, strict=True)
        ]
        page.cards(cards[:SHOWN])
        _rest(page, len(cards))
    page.heading("Settings")
    page.table(("setting", "value"), [(name, str(value)) for name, value in settings.as_json().items()])
    return page.write(settings.folder / "report.html")


def _card(few: Few, i: int) -> tuple:
    true, share = few.support.labels[i], few.held_out[i]
    name = few.support.classes[true]
    if np.isnan(share[0]):
        copied = " but for copies" if (few.first == few.first[i]).sum() > 1 else ""
        return few.support.items[i], f"{name}: alone in its class{copied}", True
    best = int(share.argmax())
    words = f"{name}: {few.support.classes[best]} ({100 * share[best]:.0f} %)"
    return few.support.items[i], words, bool(best == true)


def _rest(page: Page, count: int) -> None:
    if count > SHOWN:
        page.say(f"{count - SHOWN} more are not shown.", "note")

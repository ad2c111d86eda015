"""Detects suspicious labels: numbers to predict, several labels in one, or two spellings of a class."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

FEW = 20
"""Up to this many whole numbers may be classes of one example each, like the digits in one-shot learning."""
MARKS = "|;,"
"""Possible separators of several labels in one cell."""
MISSING = ("NA", "N/A", "#N/A", "<NA>", "n/a", "NULL", "null", "None")
"""Labels by which R, pandas, spreadsheets and databases write that there is none; they may be names of classes too."""


def refuse_numbers(labels: Sequence[str], path: Path) -> None:
    """Refuses numbers most of which differ, like regression targets, because each would be a class of its own.

    Args:
      labels: the labels of all examples.
      path: their table.

    Raises:
      ValueError: naming the task that predicts numbers.
    """
    names = set(labels)
    numbers = _numbers(names)
    if numbers is None or 2 * len(names) <= len(labels):
        return
    if len(names) > FEW or _fractions(numbers):
        raise ValueError(
            f"{str(path)!r} has {len(names)} different numbers as labels of {len(labels)} examples, as {labels[0]!r}:"
            " jtl predicts one of a few classes for each example, and each number would be a class. To predict numbers,"
            " give jtl finetune --task regression; if the numbers are names of classes, put a word before them"
        )


def notes(labels: Sequence[str]) -> list[str]:
    """Returns notes for the user about the labels of all examples of a table or a folder.

    Example:
      >>> notes(["red", "round", "red|round", "round"])[0].split(":")[0]
      "1 of 4 labels hold '|', as 'red|round'"
      >>> notes(["cat", "dog"])
      []
    """
    names, found = sorted(set(labels)), []
    if both := alike(names):
        found.append(f"the classes {both[0]!r} and {both[1]!r} differ by upper and lower case alone: are they one?")
    if lost := [label for label in labels if label in MISSING]:
        found.append(
            f"{len(lost)} of {len(labels)} labels are {lost[0]!r}, as a missing label is written, and are a class: if"
            " they are missing, remove these rows"
        )
    numbers = _numbers(names)
    if numbers is not None and _fractions(numbers):
        found.append(
            f"the labels are {len(names)} numbers, as {names[0]!r}: each is a class, and their order is not used; to"
            " predict numbers give jtl finetune --task regression"
        )
    elif numbers is None and (mark := _mark(labels)) is not None:
        held = [label for label in labels if mark in label]
        found.append(
            f"{len(held)} of {len(labels)} labels hold {mark!r}, as {held[0]!r}: each combination is a class of its"
            " own; for several labels of an example use jtl.tasks.multi_label in Python"
        )
    return found


def alike(classes: Sequence[str]) -> tuple[str, str] | None:
    """Returns two classes that differ only by upper and lower case; None if there are none.

    Example:
      >>> alike(("cat", "dog", "Cat"))
      ('cat', 'Cat')
    """
    seen: dict[str, str] = {}
    for name in classes:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            return other, name
    return None


def _numbers(names: Sequence[str] | set[str]) -> list[Decimal] | None:
    """Returns the names as numbers; None if one of them is not a number."""
    try:
        found = [Decimal(name) for name in names]
    except InvalidOperation:
        return None
    return found if all(number.is_finite() for number in found) else None


def _fractions(numbers: Sequence[Decimal]) -> bool:
    return any(number != number.to_integral_value() for number in numbers)


def _mark(labels: Sequence[str]) -> str | None:
    """Returns the separator of labels whose parts mostly recur in other labels; None if there is none."""
    names = set(labels)
    for mark in MARKS:
        parts = {name: {part.strip() for part in name.split(mark)} for name in names}
        seen = Counter(part for found in parts.values() for part in found)
        joined = {part for name, found in parts.items() if mark in name for part in found}
        recurring = [part for part in joined if seen[part] > 1]
        most = 2 * sum(mark in label for label in labels) > len(labels)
        if 2 * len(recurring) > len(joined) and (most or joined <= names):
            return mark
    return None

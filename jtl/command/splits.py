"""The splits for training, validation and test, as they are given, or drawn by a seed."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from jtl.command.source import SPLITS, Examples
from jtl.data.subsets import dealt

SHARES = {"val": 0.15, "test": 0.15}
PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
"""Pairs of splits. Copies make the scores of the later one too good, because training or the choice used them."""


def split(found: dict[str, Examples], seed: int) -> dict[str, Examples]:
    """Returns the three splits as given; missing ones are drawn from `train`.

    Examples are drawn within each class (of numbers, from all), and equal ones (the same bytes, or the same text) go
    into the same split.
    If examples have groups, whole groups are drawn, so that no speaker or patient is in two splits.

    Raises:
      ValueError: for too few examples of a class, or too few groups, to fill every split.
    """
    whole = found.get("train", found.get("all"))
    assert whole is not None
    wanted = {name: share for name, share in SHARES.items() if name not in found}
    if not wanted:
        return {name: found[name] for name in SPLITS}
    draw = np.random.default_rng(seed)
    taken = _by_class(whole, wanted, draw) if whole.groups is None else _by_group(whole, wanted, draw)
    drawn = {name: whole.rows(sorted(index)) for name, index in taken.items()}
    return {name: drawn[name] if name in drawn else found[name] for name in SPLITS}


def _by_class(whole: Examples, wanted: dict[str, float], draw: np.random.Generator) -> dict[str, list[int]]:
    taken: dict[str, list[int]] = {name: [] for name in ("train", *wanted)}
    marks = np.array([fingerprint(item) for item in whole.items])
    for label, name in enumerate(whole.classes):
        here = np.flatnonzero(whole.strata == label)
        groups = [here[marks[here] == mark] for mark in dict.fromkeys(marks[here])]
        if len(groups) < 1 + len(wanted):
            which = "there are" if whole.numeric else f"class {name!r} has"
            raise ValueError(
                f"{which} {len(groups)} different examples: give at least {1 + len(wanted)}, one for each of"
                f" train and {', '.join(wanted)}"
            )
        for part, index in dealt(groups, wanted, draw).items():
            taken[part] += index
    return taken


def _by_group(whole: Examples, wanted: dict[str, float], draw: np.random.Generator) -> dict[str, list[int]]:
    assert whole.groups is not None
    marks, names = np.array(whole.groups), sorted(set(whole.groups))
    if len(names) < 1 + len(wanted):
        raise ValueError(
            f"there are {len(names)} groups, {names}: give at least {1 + len(wanted)}, one for each of train and"
            f" {', '.join(wanted)}"
        )
    taken = dealt([np.flatnonzero(marks == name) for name in names], wanted, draw)
    absent = sorted(set(range(len(whole.classes))) - set(whole.strata[taken["train"]].tolist()))
    if absent:
        raise ValueError(
            f"class {whole.classes[absent[0]]!r} is only in groups that were drawn for {' and '.join(wanted)}: give"
            " more groups, another seed, or the splits"
        )
    return taken


def folds(examples: Examples, count: int, seed: int) -> np.ndarray:
    """Assigns each example to one of at most `count` folds for cross-validation, of nearly equal sizes, int [examples].

    Each class is distributed over the folds; equal examples (the same bytes, or the same text) are in one fold. If
    examples have groups, whole groups are distributed.

    Raises:
      ValueError: if all examples are equal, or of one group.
    """
    whole = np.array(examples.groups or [fingerprint(item) for item in examples.items])
    draw, found, dealt = np.random.default_rng(seed), {}, 0
    for label in range(len(examples.classes)):
        own = [mark for mark in dict.fromkeys(whole[examples.strata == label]) if mark not in found]
        for i in draw.permutation(len(own)):
            found[own[i]], dealt = dealt, dealt + 1
    count = min(count, len(found))
    if count < 2:
        raise ValueError(f"{len(examples)} examples are all equal, or of one group: give more to choose a penalty by")
    return np.array([found[mark] % count for mark in whole])


def shared(splits: dict[str, Examples]) -> list[str]:
    """Returns notes on examples and groups that are in more than one split, as given splits may have.

    Example:
      >>> part = lambda *texts: Examples("texts", texts, np.zeros(len(texts), np.int32), ("a", "b"))
      >>> shared({"train": part("x"), "val": part("y", "z"), "test": part("z")})
      ["1 examples of test are in val too, as 'z': the scores of test are too good"]
    """
    notes = []
    for a, b, items in repeated(splits):
        told = f"{len(items)} examples of {b} are in {a} too, as {str(items[0])[:60]!r}"
        notes.append(f"{told}: the scores of {b} are too good")
    for a, b, groups in groups_in_both(splits):
        notes.append(f"{len(groups)} groups of {a} are in {b} too, as {groups[0]!r}: the scores of {b} are too good")
    return notes


def repeated(splits: dict[str, Examples]) -> list[tuple[str, str, list[Any]]]:
    """Returns the examples that are in two splits: (split, later split, examples of the later)."""
    marks = {name: [fingerprint(item) for item in part.items] for name, part in splits.items()}
    found = []
    for a, b in PAIRS:
        seen = set(marks[a])
        found.append((a, b, [item for item, mark in zip(splits[b].items, marks[b], strict=True) if mark in seen]))
    return [pair for pair in found if pair[2]]


def groups_in_both(splits: dict[str, Examples]) -> list[tuple[str, str, list[str]]]:
    """Returns the groups that are in two splits: (split, later split, groups)."""
    found = [(a, b, set(splits[a].groups or ()) & set(splits[b].groups or ())) for a, b in PAIRS]
    return [(a, b, sorted(both)) for a, b, both in found if both]


def copies(examples: Examples) -> np.ndarray:
    """Returns for each example the index of the first equal one (the same bytes, or the same text), int [examples].

    Raises:
      ValueError: if equal examples are of two classes, naming both.

    Example:
      >>> copies(Examples("texts", ("x", "y", "x "), np.zeros(3, np.int32), ("a", "b"))).tolist()
      [0, 1, 0]
    """
    seen: dict[str, int] = {}
    first = np.array([seen.setdefault(fingerprint(item), i) for i, item in enumerate(examples.items)], int)
    wrong = np.flatnonzero(examples.labels != examples.labels[first])
    if len(wrong):
        one, other = (
            f"{named(examples.items[i])} of class {examples.classes[examples.labels[i]]!r}"
            for i in (first[wrong[0]], wrong[0])
        )
        raise ValueError(
            f"{one} and {other} are the same {examples.kind.removesuffix('s')} ({len(wrong)} such in all): an example"
            " has one class, so leave it out of the other"
        )
    return first


def named(item: Any) -> str:
    """Returns a file's path, or the beginning of a text, in quotation marks."""
    return repr(str(item) if isinstance(item, Path) else str(item)[:60])


def fingerprint(item: Any) -> str:
    """Returns a hash of a file's bytes, or of a text without surrounding white space."""
    content = item.read_bytes() if isinstance(item, Path) else str(item).strip().encode()
    return hashlib.sha256(content).hexdigest()

"""A stage of the demo: several ways to the same end, over several seeds, against a baseline."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.report import Table, spread


class Comparison(NamedTuple):
    """The accuracies of several ways to one end.

    Args:
      title: what was tried.
      pairs: baseline -> the names that must beat it in the mean.
      accuracy: name -> [seeds], in [0, 1].
      curves: name -> training losses [seeds, steps].
    """

    title: str
    pairs: dict[str, tuple[str, ...]]
    accuracy: dict[str, Any]
    curves: dict[str, Any]


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table's rows: stage, way, accuracy with its spread, and the paired gain over the baseline."""
    baseline = {name: base for base, names in comparison.pairs.items() for name in names}
    found = []
    for name, values in comparison.accuracy.items():
        gain = "baseline"
        if name in baseline:
            gained = np.asarray(values) - np.asarray(comparison.accuracy[baseline[name]])
            gain = f"{100 * gained.mean():+.1f}"
        found.append((comparison.title if not found else "", name, spread(values).percent(), gain))
    return found


def table(comparisons: Sequence[Comparison], seeds: int) -> Table:
    """The one table of the demo."""
    title = f"test accuracy in percent, mean and standard deviation over {seeds} seeds"
    found = [row for comparison in comparisons for row in rows(comparison)]
    return Table(title, ("stage", "way", "accuracy", "gain"), found)


def failures(comparisons: Sequence[Comparison]) -> list[str]:
    """The claims that do not hold: ways whose mean accuracy is not above their baseline's, in words."""
    return [
        f"{comparison.title}: {name} ({spread(comparison.accuracy[name]).percent()}) does not beat {base}"
        for comparison in comparisons
        for base, names in comparison.pairs.items()
        for name in names
        if not np.mean(comparison.accuracy[name]) > np.mean(comparison.accuracy[base])
    ]


def numbers(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All accuracies, for a JSON file."""
    return {
        comparison.title: {
            name: {"mean": spread(values).mean, "std": spread(values).std, "seeds": [float(v) for v in values]}
            for name, values in comparison.accuracy.items()
        }
        for comparison in comparisons
    }

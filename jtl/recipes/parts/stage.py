"""A stage of the demo: several ways to the same end, over several seeds, against a baseline."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.report import Table, spread


class Stage(NamedTuple):
    """What a stage found.

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


def rows(stage: Stage) -> list[tuple[str, ...]]:
    """The table's rows: stage, way, accuracy with its spread, and the paired gain over the baseline."""
    baseline = {name: base for base, names in stage.pairs.items() for name in names}
    found = []
    for name, values in stage.accuracy.items():
        gain = "baseline"
        if name in baseline:
            gained = np.asarray(values) - np.asarray(stage.accuracy[baseline[name]])
            gain = f"{100 * gained.mean():+.1f}"
        found.append((stage.title if not found else "", name, spread(values).percent(), gain))
    return found


def table(stages: Sequence[Stage], seeds: int) -> Table:
    """The one table of the demo."""
    title = f"test accuracy in percent, mean and standard deviation over {seeds} seeds"
    return Table(title, ("stage", "way", "accuracy", "gain"), [row for stage in stages for row in rows(stage)])


def failures(stages: Sequence[Stage]) -> list[str]:
    """The claims that do not hold: ways whose mean accuracy is not above their baseline's, in words."""
    return [
        f"{stage.title}: {name} ({spread(stage.accuracy[name]).percent()}) does not beat {base}"
        for stage in stages
        for base, names in stage.pairs.items()
        for name in names
        if not np.mean(stage.accuracy[name]) > np.mean(stage.accuracy[base])
    ]


def numbers(stages: Sequence[Stage]) -> dict[str, Any]:
    """All accuracies, for a JSON file."""
    return {
        stage.title: {
            name: {"mean": spread(values).mean, "std": spread(values).std, "seeds": [float(v) for v in values]}
            for name, values in stage.accuracy.items()
        }
        for stage in stages
    }

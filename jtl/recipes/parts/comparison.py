"""A stage of the demo: several ways to the same end, over several seeds, against a baseline."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.report import Table, spread


class Comparison(NamedTuple):
    """The accuracies of several ways to one end.

    Args:
      title: the experiment in words.
      pairs: baseline -> the names that are claimed to beat it.
      accuracy: name -> [seeds], in [0, 1].
      curves: name -> training losses [seeds, steps].
      others: like `pairs`, for names whose gain is reported but not claimed: further baselines, which may be better.
    """

    title: str
    pairs: dict[str, tuple[str, ...]]
    accuracy: dict[str, Any]
    curves: dict[str, Any]
    others: dict[str, tuple[str, ...]] = {}

    def over(self) -> dict[str, str]:
        """The baseline of every name whose gain is reported."""
        return {name: base for told in (self.pairs, self.others) for base, names in told.items() for name in names}


class Gain(NamedTuple):
    """A mean over seeds and the half width of its 95 % interval, in points; infinite if only one seed was run."""

    mean: float
    half: float

    @property
    def shown(self) -> bool:
        """Whether the interval lies above zero."""
        return self.mean - self.half > 0

    def text(self) -> str:
        """The gain as text, `+16.0 ± 3.1`, or `not shown: ...` if the interval includes zero."""
        interval = f"{self.mean:+.1f} ± {self.half:.1f}" if np.isfinite(self.half) else f"{self.mean:+.1f}, one seed"
        return interval if self.shown else f"not shown: {interval}"


def interval(values: Any) -> Gain:
    """Mean and half width `t_{0.975, n − 1} · std / sqrt(n)` in percent, Student's interval of n seeds."""
    from scipy.special import stdtrit

    found = 100 * np.asarray(values, np.float64)
    n = len(found)
    half = stdtrit(n - 1, 0.975) * found.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    return Gain(float(found.mean()), float(half))


def gains(comparison: Comparison) -> dict[str, Gain]:
    """The paired gain, seed by seed, of every way that has a baseline."""
    accuracy = comparison.accuracy
    return {
        name: interval(np.asarray(accuracy[name]) - np.asarray(accuracy[base]))
        for name, base in comparison.over().items()
    }


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table's rows: stage, way, accuracy with its spread, and the paired gain with its interval."""
    gained, found = gains(comparison), []
    for name, values in comparison.accuracy.items():
        said = gained[name].text() if name in gained else "baseline" if name in comparison.pairs else "weaker baseline"
        found.append((comparison.title if not found else "", name, spread(values).percent(), said))
    return found


def table(comparisons: Sequence[Comparison], seeds: int) -> Table:
    """The one table of the demo."""
    title = f"test accuracy in percent, mean and deviation over {seeds} seeds; paired gain with its 95 % interval"
    found = [row for comparison in comparisons for row in rows(comparison)]
    return Table(title, ("stage", "way", "accuracy", "gain"), found)


def headline(comparisons: Sequence[Comparison]) -> str:
    """The largest claimed gain whose interval lies above zero, in one line; empty if there is none."""
    found = [
        (gains(one)[name], name, base, one.title)
        for one in comparisons
        for base, names in one.pairs.items()
        for name in names
    ]
    shown = [row for row in found if row[0].shown]
    if not shown:
        return ""
    gain, name, base, title = max(shown, key=lambda row: row[0].mean)
    return f"Largest gain: {name} {gain.text()} points over {base}; {title}"


def failures(comparisons: Sequence[Comparison]) -> list[str]:
    """The claims that do not hold, in words: ways whose gain has an interval that is not above zero."""
    return [
        f"{comparison.title}: the gain of {name} over {base} is {gains(comparison)[name].text()}"
        for comparison in comparisons
        for base, names in comparison.pairs.items()
        for name in names
        if not gains(comparison)[name].shown
    ]


def numbers(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All accuracies and gains, for a JSON file."""
    found: dict[str, Any] = {}
    for comparison in comparisons:
        gained, base_of = gains(comparison), comparison.over()
        found[comparison.title] = {
            name: {
                "mean": spread(values).mean,
                "std": spread(values).std,
                "seeds": [float(v) for v in values],
                **(
                    {"gain": gained[name].mean, "half": gained[name].half, "over": base_of[name]}
                    if name in gained and np.isfinite(gained[name].half)
                    else {}
                ),
            }
            for name, values in comparison.accuracy.items()
        }
    return found

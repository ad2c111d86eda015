"""Means of a few runs with confidence intervals."""

import statistics
from collections.abc import Sequence


def student(runs: int) -> float:
    """The 97.5 % quantile of Student's t with `runs - 1` degrees of freedom, for a 95 % interval."""
    from scipy.stats import t

    return float(t.ppf(0.975, runs - 1))


def mean_told(values: Sequence[float], form: str = ".1f", sign: str = "+") -> str:
    """Formats the mean and, if there are several values, its 95 % interval."""
    mean = f"{statistics.mean(values):{sign}{form}}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {student(len(values)) * statistics.stdev(values) / len(values) ** 0.5:{form}}"

"""Intervals of means of a few runs."""


def student(runs: int) -> float:
    """The 97.5 % quantile of Student's t with one degree of freedom less than runs, which makes a 95 % interval."""
    from scipy.stats import t

    return float(t.ppf(0.975, runs - 1))

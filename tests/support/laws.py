"""Property-based tests that give the same examples every time, and leave nothing in the tree."""

import tempfile

from hypothesis import HealthCheck, configuration, settings
from hypothesis import strategies as st

configuration.set_hypothesis_home_dir(tempfile.mkdtemp(prefix="hypothesis-"))


def law(examples: int) -> settings:
    """So many examples, drawn alike in every run; a slow machine fails no test."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


words = st.text("abxyz019_é", min_size=1, max_size=6)
"""Names of one level."""
dims = st.lists(st.integers(0, 4), max_size=4).map(tuple)
"""Shapes, of scalars and of nothing too."""
seeds = st.integers(0, 2**32 - 1)

import jax.numpy as jnp
import pytest

from jtl.params import select
from jtl.report.parameters import describe

PARAMS = {
    "backbone": {"conv": {"kernel": jnp.ones((3, 3, 1, 8))}},
    "head": {"kernel": jnp.ones((8, 10)), "bias": jnp.zeros(10)},
}
STATS = {"backbone": {"norm": {"mean": jnp.zeros(8)}}}


def rows(text):
    return {line.split("  ")[0]: line for line in text.splitlines()}


def test_the_table_says_what_learns_and_how_fast():
    text = describe(
        PARAMS, select("head/.*"), learning_rate=[(".*/bias", 0.02), (".*", 0.01)], stats=STATS, frozen_stats=True
    )
    found = rows(text)
    assert found["backbone/conv/kernel"].split() == [
        "backbone/conv/kernel",
        "(3,",
        "3,",
        "1,",
        "8)",
        "72",
        "frozen",
        "-",
    ]
    assert found["head/kernel"].split() == ["head/kernel", "(8,", "10)", "80", "yes", "0.01"]
    assert found["head/bias"].split()[-2:] == ["yes", "0.02"]
    assert found["backbone/norm/mean"].split()[-2:] == ["statistics", "frozen"]
    assert text.splitlines()[-1] == "162 parameters, 90 trainable (55.56 %), 72 frozen"


def test_one_rate_for_all_and_running_statistics():
    found = rows(describe(PARAMS, select(".*"), learning_rate=1e-3, stats=STATS))
    assert found["backbone/conv/kernel"].split()[-2:] == ["yes", "0.001"]
    assert found["backbone/norm/mean"].split()[-1] == "running"


def test_a_pattern_without_a_match_is_refused():
    with pytest.raises(ValueError, match="matches no parameter"):
        describe(PARAMS, select("neck/.*"))

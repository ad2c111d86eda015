"""The choice of a label-free score, on made-up runs whose correlations are known."""

import numpy as np
import pytest

from benchmarks.adaptation_runs import correlations
from benchmarks.method_tables import METHODS, looked

ACCURACIES = {"source": 0.4, "mcc": 0.5, "shot": 0.7}
SCORES = {"right": lambda a: a, "wrong": lambda a: -a}


def rows(pairs=("a", "b", "held"), seeds=(0, 1)):
    """Runs of two looks; the first is worse by the accuracy and by "right", and better by "wrong"."""
    found = []
    for pair in pairs:
        for seed in seeds:
            for method, accuracy in ACCURACIES.items():
                values = [accuracy + 0.01 * seed - back for back in (0.05, 0.0)]
                looks = [
                    {"step": i, **{n: f(a) for n, f in SCORES.items()}, "accuracy": a} for i, a in enumerate(values)
                ]
                found.append({"pair": pair, "method": method, "seed": seed, "looks": looks})
    return found


def test_a_score_is_judged_by_ranks_and_what_it_chooses():
    right, wrong = correlations(rows(), "held")
    assert right["correlations"] == {"a": pytest.approx(1), "b": pytest.approx(1)}
    assert wrong["correlations"] == {"a": pytest.approx(-1), "b": pytest.approx(-1)}
    assert right["chosen"] == dict.fromkeys(("a", "b", "held"), "shot")
    assert wrong["chosen"] == dict.fromkeys(("a", "b", "held"), "source")
    np.testing.assert_allclose(right["gains"], [30, 30])
    np.testing.assert_allclose(wrong["gains"], [0, 0])
    lines = METHODS["validators"]([wrong, right]).rows
    assert lines[0][:4] == ("right", "+1.00", "+1.00", "+1.00")
    assert lines[1][0] == "wrong"


def test_a_seed_that_lacks_a_run_is_left_out():
    part = [row for row in rows() if (row["pair"], row["method"], row["seed"]) != ("held", "mcc", 1)]
    assert [row["seeds"] for row in correlations(part, "held")] == [1, 1]


def test_what_learned_from_the_targets_labels_is_not_chosen():
    known = [{**row, "method": "oracle"} for row in rows() if row["method"] == "shot"]
    assert correlations([*rows(), *known], "held") == correlations(rows(), "held")


def test_a_checkpoint_is_chosen_by_the_score_and_not_by_labels():
    (run,) = [row for row in rows(("a",), (0,)) if row["method"] == "mcc"]
    found = looked(run["looks"], "wrong")
    assert found["chosen"] == pytest.approx(45)
    assert found["last"] == found["ORACLE"] == pytest.approx(50)


def test_means_over_pairs_are_paired_by_seed():
    """Seed 1 is a point better for all, so the gain of each seed is that of the method: +30, and no interval."""
    made = [{**row, "validator": "right", "seconds": 2.0} for row in rows()]
    last = METHODS["adaptation"](made).rows[-1]
    assert last == ("mean of 3", "shot", "0.705", "70.5", "+30.0 ± 0.0", "70.5", "70.5", "2", "2")
    part = [row for row in made if (row["pair"], row["method"], row["seed"]) != ("held", "shot", 1)]
    assert METHODS["adaptation"](part).rows[-1][3:] == ("70.0", "+30.0", "70.0", "70.0", "1", "2")


def test_errors_of_several_severities_stand_side_by_side():
    made = [("source", 1, [10.0, 12.0], [0.0, 0.0]), ("BN", 1, [9.0, 11.0], [1.0, 1.0]),
            ("source", 5, [40.0, 50.0], [0.0, 0.0]), ("BN", 5, [20.0, 30.0], [20.0, 20.0])]  # fmt: skip
    rows = [{"method": m, "severity": s, "errors": e, "gains": g} for m, s, e, g in made]
    table = METHODS["test_time"](rows)
    assert table.columns == ("method", "severity 1", "severity 5")
    assert table.rows == [("source", "11.0", "45.0"), ("BN", "10.0 (+1.0 ± 0.0)", "25.0 (+20.0 ± 0.0)")]

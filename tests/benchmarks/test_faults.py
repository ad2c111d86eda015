"""A few injected faults of every kind: none is wrong, and none loses a finished save."""

import pytest

from benchmarks import faults
from benchmarks.injected.trials import Trial


@pytest.mark.slow
@pytest.mark.first
def test_no_fault_is_wrong_and_nothing_is_lost(tmp_path):
    trials = faults.campaign(1, tmp_path, families=("finetune",), say=lambda line: None)
    assert [trial for trial in trials if trial.outcome in ("wrong", "lost")] == []
    assert 36 <= len(trials) <= 60
    kinds = {trial.kind for trial in trials}
    layouts, moments = faults.kills.LAYOUTS, faults.kills.MOMENTS
    assert {f"SIGKILL, {moment}, {layout}" for layout in layouts for moment in moments} < kinds
    # What may not pass in silence is told: damage in it would also count as survived if nothing were injected.
    told = {trial.kind for trial in trials if trial.outcome == "told"}
    assert {"another run's folder", "bad label", "read-only folder"} <= told


def test_rows_count_each_kind():
    trials = [Trial("a", "told", ""), Trial("b", "wrong", ""), Trial("a", "survived", "")]
    assert faults.rows(trials) == [
        {"kind": "a", "tried": 2, "survived": 1, "told": 1, "wrong": 0, "lost": 0},
        {"kind": "b", "tried": 1, "survived": 0, "told": 0, "wrong": 1, "lost": 0},
    ]

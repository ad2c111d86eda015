"""Runs that are killed and started again end with the bits of a run that was not."""

import importlib.util
from pathlib import Path

import pytest


def load():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_resume.py"
    spec = importlib.util.spec_from_file_location("kill_resume", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.first
@pytest.mark.parametrize("devices", [1, 8])
def test_five_kills_leave_every_bit_as_it_was(devices, tmp_path):
    script = load()
    report = script.campaign(5, devices=(devices,), seed=devices, folder=tmp_path)
    cells = {(devices, family) for family in script.FAMILIES}
    assert report.killed.keys() == report.unbroken.keys() == cells
    assert report.killed == report.unbroken
    assert len(report.kills) == 5
    assert {(kill.devices, kill.family) for kill in report.kills} == cells
    assert sum(kill.saving for kill in report.kills) >= 3, "those that were aimed at a save"
    # A digest that did not see the state would compare equal too: every family's must be its own.
    assert len(set(report.unbroken.values())) == len(cells)

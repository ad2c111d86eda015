"""Folders of runs as weights."""

import pytest

from jtl import cli
from jtl.command.runs import weights_of
from jtl.command.settings import write


def test_weights_of_a_run_are_its_network(tmp_path):
    run, net = tmp_path / "run", tmp_path / "net"
    write(run, {"settings": {"data": "photos"}})
    assert weights_of(str(run)) == str(run / "model")
    net.mkdir()
    (net / "model.safetensors").touch()
    for given in (str(net), str(net / "model.safetensors"), str(tmp_path / "none"), "hf:org/name", "timm:resnet18"):
        assert weights_of(given) == given
    (net / "config.json").write_text("{}")
    (net / "run.json").write_text("not of jtl")
    assert weights_of(str(net)) == str(net), "a folder that is a network is not looked at as a run"


def test_the_folder_of_runs_and_a_part_of_one_lead_to_the_run(tmp_path, capsys):
    """As of a sweep; "no checkpoint in it, which does not exist" was said of a report that was there."""
    write(tmp_path / "a", {"settings": {}})
    (tmp_path / "a" / "report.html").touch()
    step = tmp_path / "b" / "checkpoints" / "step_00000001"
    (step / "arrays").mkdir(parents=True)
    (step / "manifest.json").touch()
    one, other = str(tmp_path / "a"), str(step.parent)
    for given, told in (
        (
            tmp_path,
            f"is no run, no network that jtl.save wrote, and no checkpoints of a run: give {one!r} or {other!r}",
        ),
        (tmp_path / "a" / "report.html", f"is a part of a run: give {one!r}"),
        (step, f"is a part of a run: give {other!r}"),
    ):
        assert cli.main(["predict", str(given), "a.png"]) == 2
        assert capsys.readouterr().err == f"jtl: {str(given)!r} {told}\n"


def test_a_run_that_is_not_finished_is_no_weights(tmp_path):
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00000001" / "manifest.json").touch()
    with pytest.raises(ValueError, match="holds a run without a saved network"):
        weights_of(str(tmp_path))


def test_a_folder_of_another_name_than_a_steps_is_no_checkpoint(tmp_path):
    """As of a copy; `jtl.Checkpoints` does not read it either."""
    (tmp_path / "checkpoints" / "step_00000001.copy").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00000001.copy" / "manifest.json").touch()
    assert weights_of(str(tmp_path)) == str(tmp_path)

"""Folders of runs as weights."""

import pytest

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

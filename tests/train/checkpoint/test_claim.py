"""One run a folder."""

import logging
import subprocess
import sys

import pytest
from least_squares import Data, begun, train

from jtl.train.checkpoint import claim
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.checkpoint.claim import NotClaimed, claimed


def test_a_second_run_in_the_same_folder_is_refused_and_told_of_the_first(tmp_path):
    step, state = begun()
    tried = []

    def hook(moment):
        if moment.step == 2:
            with pytest.raises(NotClaimed, match=rf"another run, process \d+ on .*, saves into {tmp_path}"):
                train(step, state, Data(), steps=3, checkpoints=Checkpoints(tmp_path))
            tried.append(moment.step)

    train(step, state, Data(), steps=4, checkpoints=Checkpoints(tmp_path, every=1), hooks=[hook])
    assert tried == [2]
    train(step, state, Data(), steps=5, checkpoints=Checkpoints(tmp_path))  # the first has ended


def test_a_process_that_was_killed_holds_nothing(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from jtl.train.checkpoint.claim import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with claimed(tmp_path):
        assert (tmp_path / "lock").read_text().startswith("process ")


def test_a_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(claim, "_locked", lambda file, folder: False)
    with caplog.at_level(logging.WARNING, "jtl.checkpoint"), claimed(tmp_path):
        pass
    assert "keep other runs out of it" in caplog.text

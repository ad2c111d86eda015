"""Where nothing can be written is told before anything is read or computed, by the name of the option."""

import os
from pathlib import Path

import pytest

from jtl import cli

NOWHERE = Path("/proc/jtl")  # where not even the administrator makes a folder

COMMANDS = [
    (["finetune", "absent", "--weights", "w", "--out", "{out}"], "--out"),
    (["adapt", "absent", "other", "--weights", "w", "--method", "mcc", "--out", "{out}"], "--out"),
    (["adapt-few", "absent", "--support", "other", "--out", "{out}"], "--out"),
    (["features", "absent.png", "--weights", "w", "--out", "{out}/f.npz"], "--out"),
    (["sweep", "{out}", "--grid", "seed=0,1", "--", "finetune", "absent", "--weights", "w"], "OUT"),
]


@pytest.mark.skipif(not NOWHERE.parent.is_dir(), reason="a system without /proc")
@pytest.mark.parametrize(("words", "option"), COMMANDS)
def test_a_file_system_that_takes_no_files_is_told_first(words, option, capsys):
    assert cli.main([word.format(out=NOWHERE) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"jtl: {option} '{NOWHERE}")
    assert "nothing can be written in '/proc' (" in said


if os.geteuid() != 0:  # an administrator may write everywhere

    @pytest.mark.parametrize(("words", "option"), COMMANDS)
    def test_a_read_only_folder_is_told_first(words, option, tmp_path, capsys):
        tmp_path.chmod(0o500)
        assert cli.main([word.format(out=tmp_path / "out") for word in words]) == 2
        assert f"nothing can be written in {str(tmp_path)!r} (Permission denied)" in capsys.readouterr().err


def test_the_check_leaves_nothing(tmp_path, capsys):
    words, _ = COMMANDS[0]
    assert cli.main([word.format(out=tmp_path / "a" / "b") for word in words]) == 2
    assert "the data 'absent' do not exist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

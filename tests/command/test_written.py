"""Files that are written whole, with names that are not UTF-8."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jtl.command import inference
from jtl.command.settings import write
from jtl.command.written import write_whole
from jtl.report.bars import bars
from jtl.report.page import Page

LATIN = os.fsdecode(b"caf\xe9")
"""As Python names a file that an older system wrote in Latin-1."""

pytestmark = pytest.mark.skipif(not LATIN.startswith("caf\udce9"), reason="names of files are no bytes here")


def test_names_that_are_not_utf_8_are_written_with_escapes(tmp_path):
    write(tmp_path, {"settings": {"data": LATIN}, "name": "é"})
    found = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert found == {"settings": {"data": LATIN}, "name": "é"}, "JSON's escapes are read as what they were"
    inference.write_csv(tmp_path / "a" / "out.csv", [f"{LATIN}.png", "é.png"], np.eye(2), ("x", "y"))
    with open(tmp_path / "a" / "out.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["input"] for line in lines] == [r"caf\udce9.png", "é.png"]
    page = Page(LATIN)
    assert r"caf\udce9" in page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert bars({LATIN: (1, 0)}, tmp_path / "bars.png").exists()
    assert sorted(path.name for path in tmp_path.rglob("*.new")) == []


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.csv", "before")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.csv", "after")
    assert (tmp_path / "a.csv").read_text() == "before"


@pytest.mark.skipif(sys.platform == "win32", reason="no links and pipes")
def test_links_stay_and_pipes_are_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "there" / "a.csv")
    write_whole(tmp_path / "link.csv", "a")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "there" / "a.csv").read_text() == "a"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "b")
    assert os.read(reader, 9) == b"b"
    os.close(reader)


def test_a_pipe_of_the_process_is_written_straight():
    code = (
        "from pathlib import Path; from jtl.command.written import write_whole; write_whole(Path('/dev/stdout'), 'a')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "a"

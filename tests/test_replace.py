import os

import pytest

from jtl.replace import replace_file


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    replace_file(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_it_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda _: order.append("flushed"))
    monkeypatch.setattr(os, "replace", lambda *_: order.append("named"))
    replace_file(tmp_path / "x", b"new")
    assert order == ["flushed", "named"]

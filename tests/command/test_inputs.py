"""Files and texts on the command line."""

import pytest

from jtl.command.few import _queries
from jtl.command.inputs import files, texts


@pytest.mark.parametrize("name", ["reviws.csv", "gone/new.JSONL", "a b.parquet", "~/lines.txt"])
def test_a_file_whose_name_is_mistyped_is_no_text(name, tmp_path, monkeypatch):
    """It was classified, and the command ended well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "reviews.csv").write_text("text\ngood\n")
    for read in (texts, lambda given: _queries(tuple(given), "texts", "text")):
        with pytest.raises(FileNotFoundError, match=r"the (table|file) '.*' does not exist; if it is a text that ends"):
            read(["reviews.csv", name])


def test_texts_that_are_no_names_of_files_are_texts():
    given = ["good", "see t.csv, please", "one\nin t.csv", "3.5", "~ five", "photo.png"]
    assert texts(given) == given
    with pytest.raises(ValueError, match="there is no text"):
        texts([""])


def test_a_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("text\ngood\n")
    (tmp_path / "t.txt").write_text("bad\n")
    assert texts(["~/t.csv", "~/t.txt"]) == ["good", "bad"]
    assert files(["~/t.txt"]) == [tmp_path / "t.txt"]
    with pytest.raises(ValueError, match="is a folder"):
        texts(["~"])

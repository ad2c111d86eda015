"""What a command says and gives where tables of files stand beside files, or in their place."""

import csv
import shutil

import made
import pytest

from jtl import cli


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four photos in class folders and in a table, networks of images without and with names of classes."""
    root = tmp_path_factory.mktemp("mixed")
    made.listed_photos(root)
    return root


@pytest.mark.parametrize("command", ["adapt-few", "rank"])
def test_names_of_files_as_texts_lead_to_the_option(world, command, tmp_path, capsys):
    table = str(world / "photos.csv")
    words = {
        "adapt-few": [str(world / "bare"), "--support", table, "--out", str(tmp_path / "run")],
        "rank": [table, str(world / "bare")],
    }
    assert cli.main([command, *words[command], "--text", "file"]) == 2
    told = capsys.readouterr().err
    assert "the column 'file' of the table holds names of files: give --file file" in told


def test_a_name_of_a_column_is_quoted(world, tmp_path, capsys):
    shutil.copytree(world / "photos", tmp_path / "photos")
    content = (world / "photos.csv").read_text().replace("file,", "my file,", 1)
    (tmp_path / "photos.csv").write_text(content)
    words = ["rank", str(tmp_path / "photos.csv"), str(world / "bare"), "--text", "my file"]
    assert cli.main(words) == 2
    assert "give --file 'my file'" in capsys.readouterr().err


def test_a_query_is_no_table_of_files(world, tmp_path, capsys):
    words = ["adapt-few", str(world / "bare"), "--support", str(world / "photos"), "--query", str(world / "photos.csv")]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "--query takes files and folders; predict a table afterwards with `jtl predict RUN " in told


def test_predictions_are_in_the_order_of_the_inputs(world, tmp_path, capsys):
    """A folder without photos is passed over beside others, and refused alone."""
    (tmp_path / "empty").mkdir()
    one, table, out = str(world / "photos" / "bees" / "1.png"), str(world / "photos.csv"), tmp_path / "out.csv"
    few, empty = str(world / "few"), str(tmp_path / "empty")
    words = ["predict", few, table, one, empty, table, "--file", "file", "--csv", str(out)]
    assert cli.main(words) == 0
    with open(out, encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    listed = [str(file) for file in sorted((world / "photos").glob("*/*"))]
    assert [row["input"] for row in found] == [*listed, one, *listed]
    labels = ["ants", "ants", "bees", "bees"]
    assert [row["label"] for row in found] == [*labels, "", *labels]
    capsys.readouterr()
    assert cli.main(["predict", few, empty]) == 2
    assert f"no image in ['{empty}']" in capsys.readouterr().err

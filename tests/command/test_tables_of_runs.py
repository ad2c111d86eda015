"""A run remembers how its table was read, and predictions keep what stands beside the texts."""

import csv
import json

import made
import numpy as np
import pytest

from jtl import cli
from jtl.command import inference
from jtl.command.inputs import texts_in_tables
from jtl.command.tables import mark_of, rows

WORDS = ["good", "bad", "film", "a", "the"]
KIND = {"yes": "good film", "no": "bad the"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `jtl finetune` on a table of semicolons whose columns are called neither text nor label."""
    root = tmp_path_factory.mktemp("run")
    encoder = made.of_texts(root / "net", WORDS)
    lines = [f"{i};{KIND[kind]}{' a' * i};{kind}" for i in range(10) for kind in ("yes", "no")]
    (root / "films.csv").write_text("\n".join(["id;review;stars", *lines]), encoding="utf-8")
    words = ["finetune", str(root / "films.csv"), "--weights", str(encoder), "--out", str(root / "run")]
    assert cli.main([*words, "--text", "review", "--label", "stars"]) == 0
    return root / "run"


def written(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_predicts_its_column_and_keeps_the_others(run, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("text;review;who\nbad the;good film;Ann\ngood film;bad the;\n", encoding="utf-8")
    given = ["predict", str(run), str(tmp_path / "new.csv"), "--top", "1"]
    assert cli.main([*given, "--csv", str(tmp_path / "out.csv")]) == 0
    said = capsys.readouterr().out
    found = written(tmp_path / "out.csv")
    assert list(found[0]) == ["input", "text", "who", "prediction", "share", "no", "yes"]
    assert [(row["input"], row["text"], row["who"], row["prediction"]) for row in found] == [
        ("good film", "bad the", "Ann", "yes"), ("bad the", "good film", "", "no")
    ]  # fmt: skip
    assert cli.main([*given, "--text", "review"]) == 0
    assert capsys.readouterr().out == said
    assert cli.main([*given, "--text", "text"]) == 0  # what is given goes before what is remembered
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["bad the", "good film"]


def test_a_table_without_the_column_is_told_by_its_own(run, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("id;body\n1;good film\n", encoding="utf-8")
    assert cli.main(["predict", str(run), str(tmp_path / "new.csv")]) == 2
    said = capsys.readouterr().err
    assert (
        "has no column 'review'; its columns are ['id', 'body']: give --text (the run was trained on 'review')" in said
    )


def test_a_run_remembers_what_stood_between_the_cells(run, tmp_path):
    """A table of one column does not say it: a comma in a text was taken for the end of a cell."""
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["mark"] == ";"
    (tmp_path / "new.csv").write_text("review\ngood film, a\n", encoding="utf-8")
    with pytest.raises(ValueError, match="put a text that holds ',' into quotation marks"):
        texts_in_tables([str(tmp_path / "new.csv")], "review")
    assert inference.predict(run / "model", [str(tmp_path / "new.csv")]).items == ["good film, a"]
    (tmp_path / "new.csv").write_text('id,review\n1,"good; film"\n', encoding="utf-8")  # the first line says it
    assert inference.predict(run / "model", [str(tmp_path / "new.csv")]).items == ["good; film"]


def test_a_run_is_evaluated_by_its_columns(run, capsys):
    assert cli.main(["eval", str(run), str(run.parent / "films.csv")]) == 0
    said = capsys.readouterr().out
    assert "of 20\n" in said
    assert cli.main(["eval", str(run), str(run.parent / "films.csv"), "--text", "review", "--label", "stars"]) == 0
    assert capsys.readouterr().out == said


def test_cells_of_tables_and_lines_are_kept_under_names_of_their_own(tmp_path):
    """Readers take columns by their names: none may hide another, whatever table, classes and jtl call theirs."""
    beside = [{"share": 3, "no": None, "": "a"}, {}, {"tags": ["é", 1]}]
    shares = np.array([[0.25, 0.75], [1, 0], [0, 1]])
    inference.write_csv(tmp_path / "out.csv", ["x", "y", "z"], shares, ("no", "input"), beside)
    first, second, third = written(tmp_path / "out.csv")
    assert first == {"input": "x", "column share": "3", "no": "", "": "a", "tags": "", "prediction": "input",
                     "share": "0.750000", "class no": "0.250000", "class input": "0.750000"}  # fmt: skip
    assert (second["prediction"], second["column share"], third["tags"]) == ("no", "", '["é", 1]')


def test_columns_of_one_name_are_all_kept(tmp_path):
    (tmp_path / "t.csv").write_text("text,note,note\na,1,2\n", encoding="utf-8")
    assert rows(tmp_path / "t.csv", ("text",), "--text") == [{"text": "a", "note": "1", "note.2": "2"}]


@pytest.mark.parametrize(("name", "first", "mark"), [("t.csv", "text,a;b", ","), ("t.tsv", "text\ta", "\t"),
                                                     ("t.jsonl", '{"text": "a"}', None)])  # fmt: skip
def test_the_mark_of_a_table(tmp_path, name, first, mark):
    (tmp_path / name).write_text(first, encoding="utf-8")
    assert mark_of(tmp_path / name, ("text",)) == mark

"""Rows that are wrong are told by the line of the file, and how many there are."""

import pytest

from jtl.command import source


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "text,label\na,x\n\n,y\nb,\nc,x\n", r"line 4 of .*t\.csv' and 1 more have an empty 'text'"),
        ("t.csv", 'text,label\n"a\nb",x\n ,y\n', r"line 4 of .*t\.csv' has an empty 'text'"),
        ("t.csv", "text,label\na,x\nb,nan\nc,y\nd,NaN\n", r"line 3 of .*t\.csv' and 1 more have the 'label' 'nan'"),
        (
            "t.csv",
            "text,label\na,b,x\nb,y\nc,d,e,y\n",
            r"line 2 of .* has 3 cells.*\(1 more line is wrong in this way\): put a",
        ),
        ("t.jsonl", "[1]\n[2]\n[3]\n", r"line 1 of .* is no JSON object.*\(2 more lines are wrong in this way\)"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n\n{"text": 1\n[2]\n', r"line 3 of .* is no JSON: .*\(1 more line is"),
        (
            "t.jsonl",
            '{"text": "a", "label": "x"}\n\n{"text": ["b"], "label": "y"}\n{"text": ["c"], "label": []}\n',
            r"line 3 of .*t\.jsonl' and 1 more have a list as 'text'",
        ),
    ],
)
def test_what_is_wrong_is_told_by_its_line_with_how_many_more(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        source.read(tmp_path / name)


def test_classes_that_are_not_expected_are_counted(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\na,x\n\nb,z\nc,y\nd,z\n")
    with pytest.raises(ValueError, match=r"line 4 of .*t\.csv' and 1 more have the class 'z', which is not one of"):
        source.read(tmp_path / "t.csv", classes=("x", "y"))


def test_rows_of_parquet_are_numbered_because_it_has_no_lines(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", ""], "label": ["x", "y"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"row 2 of .*t\.parquet' has an empty 'text'"):
        source.read(tmp_path / "t.parquet")


def test_a_column_of_files_is_named_where_that_of_texts_is_missing(tmp_path):
    (tmp_path / "t.csv").write_text("text,file,class\na,a.png,x\nb,b.png,y\n")
    with pytest.raises(ValueError, match="has no column 'label'") as told:
        source.read(tmp_path / "t.csv")
    assert "--file" not in str(told.value)
    with pytest.raises(ValueError, match=r"has no column 'review'.* or --file file where it holds paths"):
        source.read(tmp_path / "t.csv", text="review")

"""Photos and sounds that a table lists: the same examples, splits and scores as of a folder, and what is refused."""

import csv
import json
import shutil

import made
import numpy as np
import pytest
from PIL import Image

import jtl
from jtl import cli
from jtl.command import source
from jtl.command.settings import Settings, begin
from jtl.command.splits import split

COLUMNS = ("file", "label", "who")


def write(path, rows, columns=COLUMNS):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=False))) for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table(dict(zip(columns, zip(*rows, strict=True), strict=False))), path)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([columns, *rows])
    return path


def rows_of(root, base):
    """(path, class, a person) of the files of class folders, in the order of the folder."""
    files = sorted(root.glob("*/*"))
    return [(str(file.relative_to(base)), file.parent.name, f"p{i % 5}") for i, file in enumerate(files)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Red and blue photos, a table of them, and a small network of images."""
    root, draw = tmp_path_factory.mktemp("listed"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(14):
            pixels = draw.integers(0, 90, (10, 9, 3)) + 120 * (np.arange(3) == channel)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / name / f"{i:02}.png")
    made.folder(root / "net", made.VIT)
    write(root / "photos.csv", rows_of(root / "photos", root))
    return root


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name].kind, one[name].items, one[name].classes) == (
            other[name].kind,
            other[name].items,
            other[name].classes,
        )
        np.testing.assert_array_equal(one[name].labels, other[name].labels)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_gives_the_examples_and_splits_of_the_folder(world, kind):
    table = write(world / f"photos.{kind}", rows_of(world / "photos", world))
    whole, listed = source.read(world / "photos"), source.read(table, file="file")
    same(whole, listed)
    same(split(whole, 3), split(listed, 3))
    people = source.read(table, file="file", group="who")["all"].groups
    assert people == tuple(who for _, _, who in rows_of(world / "photos", world))
    for part in split(source.read(table, file="file", group="who"), 0).values():
        assert len(set(part.groups or ())) < 5


def test_paths_of_windows_are_told_as_such(world):
    rows = [(path.replace("/", "\\"), label) for path, label, _ in rows_of(world / "photos", world)]
    with pytest.raises(FileNotFoundError, match=r"or absolute, with / in place of a backslash:\n  line 2: '"):
        source.read(write(world / "windows.csv", rows, COLUMNS[:2]), file="file")


def test_absolute_paths_and_a_folder_of_tables_are_taken(world, tmp_path):
    rows = [(world / path, label, who) for path, label, who in rows_of(world / "photos", world)]
    same(source.read(write(tmp_path / "all.csv", rows), file="file"), source.read(world / "photos"))
    root = tmp_path / "parts"
    shutil.copytree(world / "photos", root / "train")  # where the photos lie: no split beside the tables
    some = rows_of(root / "train", root)
    for name, part in (("train", some[::2]), ("val", some[1::4]), ("test", some[3::4])):
        write(root / f"{name}.csv", part)
    found = source.read(root, file="file")
    assert {name: len(part) for name, part in found.items()} == {"train": 14, "val": 7, "test": 7}
    assert found["val"].items == tuple(root / path for path, _, _ in some[1::4])


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("no.png", "a")], COLUMNS[:2], r"1 of the 2 .*'file' are not there.*:\n  line 3: '.*no\.png'$"),
        ([(f"{i}.png", "a") for i in range(12)], COLUMNS[:2], r"12 of the 13 (.|\n)*line 12: '.*9\.png'\n  \.\.\.$"),
        ([("notes.txt", "a")], COLUMNS[:2], r"line 3 of '.*t\.csv' names '.*notes\.txt', which is not an image"),
        ([("a.wav", "a")], COLUMNS[:2], r"line 2 .*one\.png', which is not a sound, and others are"),
        ([("a.mp3", "a")], COLUMNS[:2], r"holds \.mp3 files, which jtl does not decode"),
        ([("x/../one.png", "a")], COLUMNS[:2], r"one\.png' twice: line 2 has the label 'b', line 3 'a'"),
        ([("two.png", "a")], ("image", "label"), r"no column 'file'; .*: give --file, --label; the first"),
        ([("two.png", " ")], COLUMNS[:2], "line 3 .* has an empty 'label'"),
        ([("two.png", "b")], COLUMNS[:2], r"classes \['b'\]: a classifier needs two"),
        ([("two.png", "1"), ("two.png", "1.0")], COLUMNS[:2], "which are one number"),
    ],
)
def test_what_a_table_of_files_cannot_be(tmp_path, rows, columns, message):
    (tmp_path / "x").mkdir()
    for name in ("one.png", "two.png", "notes.txt", "a.wav", "a.mp3"):
        (tmp_path / name).touch()
    table = write(tmp_path / "t.csv", [("one.png", "b"), *rows], columns)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        source.read(table, file="file")


def test_messages_lead_to_the_option(world, tmp_path, capsys):
    words = ["finetune", str(world / "photos.csv"), "--weights", str(world / "net"), "--out", str(tmp_path / "run")]
    for given, told in (
        ([], "no column 'text'; its columns are ['file', 'label', 'who']: give --text, --label, or --file file where"),
        (["--text", "file"], "the data are texts: give weights that take texts; the column 'file' of the table holds"),
        (["--text", "who", "--file", "file"], "text='who' and file='file': the examples of a table are texts or files"),
    ):
        assert cli.main([*words, *given]) == 2
        assert told in capsys.readouterr().err
    words[1] = str(world / "photos")
    assert cli.main([*words, "--file", "file"]) == 2
    assert "--file 'file' is the column of a table, and " in capsys.readouterr().err
    words = ["features", str(world / "photos.csv"), "--weights", str(world / "net"), "--out", str(tmp_path / "f.npz")]
    assert cli.main([*words, "--text", "file"]) == 2
    assert "holds names of files: give --file file" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(world):
    words = ["finetune", str(world / "photos.csv"), "--file", "file", "--weights", str(world / "net")]
    assert cli.main([*words, "--out", str(world / "run")]) == 0
    return world / "run"


def test_a_run_on_a_table_is_that_on_the_folder(world, run, tmp_path):
    killed = Settings(world / "photos", "w", tmp_path / "folder", ways="all")
    begin(killed, jtl.Checkpoints(tmp_path / "folder" / "checkpoints"))
    folder = jtl.finetune_files(world / "photos", world / "net", tmp_path / "folder", say=lambda line: None)
    table = jtl.finetune_files(
        world / "photos.csv", world / "net", tmp_path / "table", say=lambda line: None, file="file"
    )
    assert table.test.numbers() == folder.test.numbers()
    assert table.validation.numbers() == folder.validation.numbers()
    assert not (tmp_path / "folder" / "settings.json").exists()  # of a run that was killed before its first checkpoint
    assert json.loads((run / "run.json").read_text())["test"] == json.loads(json.dumps(table.test.numbers()))


def test_a_run_predicts_and_evaluates_other_tables(world, run, tmp_path, capsys):
    rows = [(world / path, label, who) for path, label, who in rows_of(world / "photos", world)[:3]]
    table = write(tmp_path / "new.csv", rows)
    other = write(tmp_path / "other.csv", rows, ("path", "colour", "who"))
    for given in ([str(table)], [str(other), "--file", "path"]):
        assert cli.main(["predict", str(run), *given, "--csv", str(tmp_path / "out.csv")]) == 0
        with open(tmp_path / "out.csv", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        assert [row["input"] for row in found] == [str(path) for path, _, _ in rows]
        assert [row["who"] for row in found] == ["p0", "p1", "p2"]
    capsys.readouterr()
    assert cli.main(["predict", str(run), str(other)]) == 2
    assert "give --file (the run was trained on 'file')" in capsys.readouterr().err
    said = []
    for data in ([str(world / "photos.csv")], [str(world / "photos")]):  # its own column, and none for a folder
        assert cli.main(["eval", str(run), *data]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "of 28\n" in said[0]
    assert cli.main(["eval", str(run), str(other), "--file", "path", "--label", "colour"]) == 0
    assert cli.main(["eval", str(run), str(other), "--text", "path", "--label", "colour"]) == 2
    assert (
        "holds texts; the column 'path' of the table holds names of files: give --file path" in capsys.readouterr().err
    )


def test_a_run_on_a_folder_asks_for_the_column(world, tmp_path, capsys):
    words = ["finetune", str(world / "photos"), "--weights", str(world / "net"), "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main(["predict", str(tmp_path / "run"), str(world / "photos.csv")]) == 2
    assert "is a table: name the column of the paths of its images, --file COLUMN" in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path / "run"), str(world / "photos.csv"), "--file", "file"]) == 0


def test_features_and_ranks_are_those_of_the_folder(world, tmp_path, capsys):
    found, words = [], ["--weights", str(world / "net"), "--out", str(tmp_path / "f.npz")]
    for given in ([str(world / "photos")], [str(world / "photos.csv"), "--file", "file"]):
        assert cli.main(["features", *given, *words]) == 0
        with np.load(tmp_path / "f.npz") as arrays:
            found.append({name: arrays[name] for name in arrays})
    np.testing.assert_array_equal(found[0]["inputs"], found[1]["inputs"])
    np.testing.assert_array_equal(found[0]["features"], found[1]["features"])
    ranks = []
    for given in ([str(world / "photos")], [str(world / "photos.csv"), "--file", "file"]):
        capsys.readouterr()
        assert cli.main(["rank", given[0], str(world / "net"), *given[1:]]) == 0
        ranks.append(capsys.readouterr().out)
    assert ranks[0] == ranks[1]


def test_a_support_set_may_be_a_table(world, tmp_path, capsys):
    words = ["adapt-few", str(world / "net"), "--support", str(world / "photos.csv"), "--file", "file"]
    assert cli.main([*words, "--out", str(tmp_path / "few")]) == 0
    assert cli.main(["eval", str(tmp_path / "few"), str(world / "photos.csv")]) == 0
    assert "of 28\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("target", ["night.csv", "night"])
def test_a_domain_may_be_a_table(world, tmp_path, target, capsys):
    shutil.copytree(world / "photos", tmp_path / "night")
    write(tmp_path / "night.csv", rows_of(tmp_path / "night", tmp_path))
    words = ["adapt", str(world / "photos.csv"), str(tmp_path / target), "--file", "file", "--weights"]
    words += [str(world / "net"), "--method", "mcc", "--steps", "2", "--batch", "8", "--labelled"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "accuracy on the target by its labels" in capsys.readouterr().out
    words[1:3] = str(world / "photos"), str(tmp_path / "night")
    assert cli.main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "are folders without tables" in capsys.readouterr().err


def test_sounds_are_told_by_their_suffixes(tmp_path):
    pytest.importorskip("soundfile")
    for seed, (name, hertz) in enumerate((("high", 3000), ("low", 200))):
        made.tones(tmp_path / "sounds" / name, hertz, ("anna", "ben", "carl"), seed)
    table = write(tmp_path / "sounds.csv", rows_of(tmp_path / "sounds", tmp_path))
    same(source.read(table, file="file"), source.read(tmp_path / "sounds"))


@pytest.mark.slow
@pytest.mark.compiling
def test_ants_and_bees_in_a_table_are_those_of_the_folder(real_data, tmp_path):
    photos = real_data("hymenoptera")
    for part in ("train", "val"):
        rows = [(photos / path, label, who) for path, label, who in rows_of(photos / part, photos)]
        write(tmp_path / "tables" / f"{part}.csv", rows)
    whole, listed = source.read(photos), source.read(tmp_path / "tables", file="file")
    same(whole, listed)
    same(split(whole, 0), split(listed, 0))
    made.folder(tmp_path / "net", made.VIT)
    found = [
        jtl.finetune_files(data, tmp_path / "net", tmp_path / name, say=lambda line: None, **options)
        for data, name, options in ((photos, "a", {}), (tmp_path / "tables", "b", {"file": "file"}))
    ]
    assert found[0].test.numbers() == found[1].test.numbers()

"""Folders and tables as newcomers have them: read as they mean it, or refused in words that name the thing."""

import csv
import json
import re
from pathlib import Path

import jax
import made
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl import cli
from jtl.command import inference, labels, source, tables
from jtl.command.adapt_settings import AdaptSettings
from jtl.command.adapt_target import target_of
from jtl.command.inputs import texts
from jtl.command.model import Inputs, inputs_of, pretrained
from jtl.command.settings import Settings, refuse_another, write
from jtl.command.tables import rows
from jtl.preprocess.image import IMAGENET, Preprocessing

WORDS = ["good", "bad", "film", "a", "the", "##s"]


def table(root, text, name="t.csv"):
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return made.of_texts(tmp_path_factory.mktemp("net"), WORDS)


@pytest.fixture(scope="module")
def loaded(encoder):
    return pretrained(str(encoder), ("a", "b"), arch=None, kind="texts", key=jax.random.key(0))


@pytest.mark.parametrize("mark", [";", "\t", ", "])
def test_a_csv_of_another_mark_is_read_by_it(tmp_path, mark):
    lines = [("text", "label"), ('"good, very; much\tso"', "yes"), ("bad", "no")]
    (found,) = source.read(table(tmp_path, "\r\n".join(mark.join(line) for line in lines))).values()
    assert found.items == ("good, very; much\tso", "bad")
    assert found.classes == ("no", "yes")


def test_labels_that_differ_by_space_are_one_class(tmp_path):
    (found,) = source.read(table(tmp_path, "text,label\na,no\nb, no\nc,yes \nd,yes\n")).values()
    assert found.classes == ("no", "yes")
    assert found.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,text\nyes,good, very\nno,bad\n", r"line 2 .* has 3 cells, and there are 2 columns.* quotation marks"),
        ("text,text,label\na,b,yes\nc,d,no\n", "has the column 'text' 2 times"),
        ("good,yes\nbad,no\n", r"its columns are \['good', 'yes'\].*the first line must name the columns"),
        ("", "has no rows"),
        ("text,label\ngood,yes\nbad\n", "line 3 .* has an empty 'label'"),
        ("text,label\na,1\nb,0\nc,1.0\n", "labels '1' and '1.0', which are one number"),
        ("text,label\na,yes\nb,nan\nc,no\nd,nan\n", "line 3 .* and 1 more have the 'label' 'nan', as a missing"),
        ("text,label\na,01\nb,0\nc,1\n", "labels '01' and '1', which are one number"),
        (
            'text,label\n"a,yes\n' + 99 * "b,no\n",
            "line 2 .* is no row of a table: unexpected end of data; is a quotation mark not closed",
        ),
        (
            f'text,label\n"{200 * "b,no|"}",\n'.replace("|", "\n"),
            "line 2 .* has an empty .*a quotation mark before it not closed",
        ),
    ],
)
def test_a_csv_that_would_be_read_wrong_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        source.read(table(tmp_path, text))


ROWS = [("fine", "1"), ("It is good", "1"), ("bad film", "0"), ("awful", "0"), ("he said", "1")]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize(("opened", "closing", "said"), [
    (1, 4, r"is no row of a table: '.*' expected after '\"'; .* not closed\?"),
    (1, None, "is no row of a table: unexpected end of data"),
])  # fmt: skip
def test_a_quotation_mark_that_swallows_rows_is_refused_by_its_line(tmp_path, mark, opened, closing, said):
    lines = [["text", "label"], *map(list, ROWS)]
    lines[opened + 1][0] = '"' + lines[opened + 1][0]
    if closing is not None:
        lines[closing + 1][0] += ' "no"'
    name = "t.tsv" if mark == "\t" else "t.csv"
    with pytest.raises(ValueError, match=rf"line 3 of .*{said}"):
        source.read(table(tmp_path, "".join(mark.join(line) + "\n" for line in lines), name))


def test_a_cell_of_a_tsv_that_holds_other_rows_is_refused(tmp_path):
    """The second mark closes it at the end of a cell, so the rows between would be a text."""
    file = table(tmp_path, 'text\tlabel\n"It is good\t1\nbad film"\t0\nawful\t0\nfine\t1\n', "t.tsv")
    with pytest.raises(ValueError, match=r"line 2 of .* has a cell of several lines with tabs, .* not closed\?"):
        source.read(file)


def test_lone_quotation_marks_within_a_cell_are_characters(tmp_path):
    """As in GLUE's .tsv, which quotes nothing; a quoted cell may have several lines."""
    file = table(tmp_path, 'text\tlabel\nhe said "no" twice\t1\na 5" disc\t0\n"of two\nlines"\t1\n', "t.tsv")
    (found,) = source.read(file).values()
    assert found.items == ('he said "no" twice', 'a 5" disc', "of two\nlines")


def test_labels_are_compared_as_they_are_meant(tmp_path):
    """Whole numbers that no float tells apart are two classes, and the two spellings of é are one."""
    large = (1 << 53, (1 << 53) + 1)
    (found,) = source.read(table(tmp_path, f"text,label\na,{large[0]}\nb,{large[1]}\n")).values()
    assert found.classes == tuple(map(str, large))
    file = table(tmp_path, "text,label\na,e\u0301tang\nb,\u00e9tang\nc,zo\n")
    (found,) = source.read(file).values()
    assert found.classes == ("zo", "\u00e9tang")
    assert found.labels.tolist() == [1, 1, 0]
    (found,) = source.read(file, classes=("e\u0301tang", "zo")).values()  # as the config of a network may have them
    assert found.labels.tolist() == [0, 0, 1]


def test_empty_lines_and_cells_beyond_the_columns_are_nothing(tmp_path):
    found = rows(table(tmp_path, "text,label\n\na,yes,\n\nb,no,,\n"), ("text",), "--text")
    assert found == [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}]


def test_a_table_gives_its_column_to_predict(tmp_path, encoder):
    file = table(tmp_path, "n;review\n1;good film\n2;bad\n", "new.csv")
    assert texts([str(file), "a third"], "review") == ["good film", "bad", "a third"]
    with pytest.raises(ValueError, match="has no column 'text'"):
        texts([str(file)])
    with pytest.raises(ValueError, match="is a folder, and the network takes texts"):
        texts([str(tmp_path)])


def test_long_texts_are_counted(encoder, loaded):
    items = ["good " * 126, "good " * 127, "bad"]  # with two special tokens 128, 129 and 3
    inputs, _ = inputs_of(loaded, str(encoder), "texts", items, None)
    assert inputs.tokens.counts(items) == [128, 129, 3]
    assert inputs.note(items) == "1 of 3 texts are longer than 128 tokens: the rest of these is not used"
    assert inputs.note(items[::2]) is None


def test_weights_of_another_kind_are_named(tmp_path, encoder, capsys):
    vit = made.folder(tmp_path / "vit", made.VIT)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8, 3), 9 * i + len(name), np.uint8)).save(
                tmp_path / "photos" / name / f"{i}.PNG"
            )
    assert (
        cli.main(["finetune", str(tmp_path / "photos"), "--weights", str(encoder), "--out", str(tmp_path / "r")]) == 2
    )
    assert "is a network of texts, and the data are images: give weights that take images" in capsys.readouterr().err
    file = table(tmp_path, "text,label\n" + "".join(f"good {i},{i % 2}\n" for i in range(8)))
    assert cli.main(["finetune", str(file), "--weights", str(vit), "--out", str(tmp_path / "r")]) == 2
    assert "is a network of images, and the data are texts: give weights that take texts" in capsys.readouterr().err


def test_hidden_files_are_passed_over_where_files_are_looked_for(tmp_path):
    for name in ("a.png", "._a.png", ".cache/b.png", "__MACOSX/c.png", "deep/d.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in source.files_of([str(tmp_path)])] == ["a.png", "d.JPG"]


def test_folders_that_are_links_are_looked_into(tmp_path):
    """As `jtl finetune` reads them: a folder of links to class folders gave no row."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.png").write_bytes(b"")
    (tmp_path / "new").mkdir()
    for name in ("one", "two"):
        (tmp_path / "new" / name).symlink_to(tmp_path / "there")
    (tmp_path / "new" / "round").symlink_to(tmp_path / "new")  # has no end
    given = [str(tmp_path / "new")]
    assert source.files_of(given) == [tmp_path / "new" / name / "a.png" for name in ("one", "two")]
    (tmp_path / "new" / "b.png").symlink_to("gone.png")
    with pytest.raises(ValueError, match=r"new/b\.png' is a link to 'gone\.png', which is not there"):
        source.files_of(given)


def test_files_that_a_folder_holds_beside_those_that_are_read_are_told(tmp_path, capsys):
    """A hundred photos of a phone gave no row, and no word said so."""
    weights, photos = made.folder(tmp_path / "net", made.RESNET), tmp_path / "photos"
    for name, value in (("a", 30), ("b", 220)):
        (photos / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (32, 32), (value + i, value, 9)).save(photos / name / f"{i}.png")
    new = tmp_path / "new"
    new.mkdir()
    for name in ("a.HEIC", "b.heic", "notes", ".hidden"):
        (new / name).write_bytes(b"")
    (new / "c.png").write_bytes((photos / "a" / "0.png").read_bytes())
    said = "3 of 4 files in the folders are not read, because of their suffix: no suffix, .heic"
    run, out = str(tmp_path / "run"), str(tmp_path / "f.npz")
    few = ["adapt-few", str(weights), "--support", str(photos), "--query", str(new), "--out", run, "--size", "32"]
    assert cli.main(few) == 0
    assert f"note: queries: {said}" in capsys.readouterr().out
    for words in (["predict", run, str(new)], ["features", str(new), "--weights", str(weights), "--out", out]):
        assert cli.main(words) == 0
        assert f"note: {said}" in capsys.readouterr().err
    one = str(new / "c.png")
    for words in (["predict", run, one], ["features", one, "--weights", str(weights), "--out", out]):
        assert cli.main(words) == 0
        assert "are not read" not in capsys.readouterr().err
    settings = AdaptSettings(photos, new, str(weights), "mcc", tmp_path / "adapted")
    (new / "d.png").write_bytes((photos / "a" / "1.png").read_bytes())
    assert target_of(settings, source.read(photos)["all"]).notes == [said.replace("of 4", "of 5")]


def test_a_folder_of_the_folder_and_sounds_that_are_not_decoded_are_told(tmp_path):
    for name in ("all/photos/ant/a.png", "all/photos/bee/b.png", "sounds/yes/a.mp3", "sounds/no/b.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"photos/ant' is a folder within the class folder .* or give '.*photos'"):
        source.read(tmp_path / "all")
    with pytest.raises(ValueError, match=r"holds \.mp3 files.* convert these sounds to one of \.wav, \.flac"):
        source.read(tmp_path / "sounds")


def test_features_say_what_they_cannot_take(tmp_path, capsys):
    for name in ("a.png", "b.wav", "t.csv"):
        (tmp_path / name).write_bytes(b"")
    for words, message in (
        ([tmp_path / "t.csv"], "is a table: name the column of its texts, --text COLUMN"),
        ([tmp_path], "is a sound and"),
    ):
        assert cli.main(["features", *map(str, words), "--weights", "w"]) == 2
        assert message in capsys.readouterr().err


def test_a_long_text_is_a_text(tmp_path, monkeypatch):
    long = "good " * 40000
    (found,) = source.read(table(tmp_path, f"text,label\n{long},yes\nbad,no\n")).values()
    assert found.items == (long, "bad")
    assert csv.field_size_limit() == 131072  # of the process, as before
    monkeypatch.setattr(tables, "LONGEST", 1000)
    with pytest.raises(ValueError, match=r"line 2 of .* no row of a table: field larger than .* not closed\?"):
        source.read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ["a"], "label": "x"}, r"line 2 of .* has a list as 'text', \['a'\]: give a text or a number"),
        ({"text": "a", "label": {"x": 1}}, "line 2 of .* has a dict as 'label'"),
        ({"text": None, "label": "x"}, "line 2 of .* has an empty 'text'"),
        ({"text": "a", "label": float("nan")}, "line 2 of .* has an empty 'label'"),
    ],
)
def test_a_cell_that_is_no_text_is_refused(tmp_path, row, message):
    lines = "\n".join(map(json.dumps, ({"text": "b", "label": "y"}, row)))
    with pytest.raises(ValueError, match=message):
        source.read(table(tmp_path, lines, "t.jsonl"))


def test_classes_that_differ_by_case_alone_are_found():
    assert labels.alike(("Straße", "a", "STRASSE")) == ("Straße", "STRASSE")
    assert labels.alike(("a", "b")) is None


def test_a_stored_orientation_is_told(tmp_path):
    turn, kept = Image.Exif(), Image.Exif()
    turn[0x112], kept[0x112] = 6, 1
    for name, exif in (("turned.jpg", turn), ("kept.jpg", kept), ("none.jpg", Image.Exif())):
        Image.new("RGB", (4, 6)).save(tmp_path / name, exif=exif)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    inputs = Inputs(preprocessing=Preprocessing(8, 8, "bilinear", *IMAGENET))
    files = sorted(tmp_path.iterdir())
    assert "1 of 4 images have a stored orientation (EXIF) that is not applied" in (inputs.note(files) or "")
    assert inputs.note(files[:3]) is None


def test_files_to_write_are_checked_before_the_work(tmp_path, capsys):
    weights, run = str(made.folder(tmp_path / "net", made.RESNET)), tmp_path / "run"
    (tmp_path / "a.png").write_bytes(b"never read")
    (tmp_path / "file").write_text("mine")
    made_of = ["features", str(tmp_path / "a.png"), "--weights", weights, "--out"]
    tune = ["finetune", str(tmp_path / "photos"), "--weights", weights, "--out"]
    for words, message in [
        ([*made_of, str(tmp_path / "f.csv")], "give the .npz file to write"),
        ([*made_of, str(tmp_path)], "give the .npz file to write"),
        ([*made_of, str(tmp_path / "file" / "f.npz")], "is no folder; give another path"),
        ([*tune, str(tmp_path / "file")], f"{str(tmp_path / 'file')!r} is no folder; give another path"),
        ([*tune, str(tmp_path / "file" / "below")], f"{str(tmp_path / 'file')!r} is no folder; give another path"),
        ([*tune, "gs://bucket/run"], "no gs:// addresses"),
        (["predict", weights, "a.png", "--csv", str(tmp_path)], "is a folder: give the file to write"),
        (["export", weights, str(tmp_path / "file")], "is no folder"),
    ]:
        assert cli.main(words) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    run.mkdir()
    for text, message in (("{bad", "Expecting property name"), ("[1]", "it has no settings"), ("{}", "no settings")):
        (run / "run.json").write_text(text)
        for words in ([*tune, str(run)], ["predict", str(run), "a.png"], ["eval", str(run), str(tmp_path)]):
            assert cli.main(words) == 2
            said = capsys.readouterr().err
            assert f"{str(run / 'run.json')!r} is not as a run of jtl writes it" in said
            assert message in said


def test_a_run_of_an_older_version_is_another_where_it_had_the_default(tmp_path):
    """A setting that a version does not have yet is as its default, and one that this version lacks is told."""
    then = Settings(Path("photos"), "w", tmp_path).as_json()
    del then["balanced"]
    write(tmp_path, {"settings": then})
    refuse_another(Settings(Path("photos"), "w", tmp_path))
    with pytest.raises(ValueError, match="balanced False -> True"):
        refuse_another(Settings(Path("photos"), "w", tmp_path, balanced=True))
    write(tmp_path, {"settings": {**then, "rounds": 3}})
    with pytest.raises(ValueError, match="rounds 3 -> None"):
        refuse_another(Settings(Path("photos"), "w", tmp_path))


def test_queries_of_a_table_are_read_from_the_named_column(encoder, tmp_path, capsys):
    """A table that has the default's column too gave other texts than those that were meant."""
    support = table(tmp_path, "review,label\ngood film,yes\ngood a,yes\nbad the,no\nbad film,no\n", "support.csv")
    queries = table(tmp_path, "text,review\nbad the,good film\n", "queries.csv")
    words = ["adapt-few", str(encoder), "--support", str(support), "--text", "review", "--query", str(queries)]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("good film") == 2
    assert page.count("bad the") == 1
    capsys.readouterr()


def test_a_stored_orientation_is_told_of_examples_and_of_what_is_predicted(tmp_path, capsys):
    weights, turn = made.folder(tmp_path / "net", made.RESNET), Image.Exif()
    turn[0x112] = 6
    for name, value in (("a", 30), ("b", 220)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 30, (40, 40, 3)) + value
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{i}.jpg", exif=turn)
    run, photos = str(tmp_path / "run"), str(tmp_path / "photos")
    words = ["adapt-few", str(weights), "--support", photos, "--query", photos + "/a", "--out", run, "--size", "32"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "note: examples: 4 of 4 images have a stored orientation" in said
    assert "note: queries: 2 of 2 images have a stored orientation" in said
    assert cli.main(["predict", run, photos + "/b"]) == 0
    said = capsys.readouterr()
    assert "2 of 2 images have a stored orientation" in said.err
    assert "stored orientation" not in said.out  # which another program may read


def test_weights_that_hold_nan_are_refused(tmp_path, capsys):
    """Maximum pooling takes no NaN for the largest, so all features were finite, equal, and worth nothing."""
    held = made.tensors(made.RESNET)
    name = next(n for n, array in held.items() if array.ndim == 4)
    held[name] = held[name] * np.float32("nan")
    folder = made.folder(tmp_path / "net", made.RESNET)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    for i in range(2):
        Image.new("RGB", (32, 32), (i, i, i)).save(tmp_path / f"{i}.png")
    words = ["features", str(tmp_path / "0.png"), "--weights", str(folder), "--out", str(tmp_path / "f.npz")]
    assert cli.main(words) == 2
    assert re.search(r"holds NaN or infinity in 'backbone/.*/kernel': give other weights", capsys.readouterr().err)
    assert not (tmp_path / "f.npz").exists()


def test_a_column_of_a_class_is_not_called_as_another(tmp_path):
    """A reader by names took the share of a class `input` for the example."""
    shares = np.array([[0.25, 0.75]])
    inference.write_csv(tmp_path / "p.csv", ["a.png"], shares, ("input", "bee"))
    with open(tmp_path / "p.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row == {"input": "a.png", "prediction": "bee", "share": "0.750000", "class input": "0.250000",
                   "bee": "0.750000"}  # fmt: skip

"""What data are, how they are split, and what is refused."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jtl.command import source
from jtl.command.splits import groups_in_both, repeated, shared, split
from jtl.extras import NotInstalled


def image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6, 3), value, np.uint8)).save(path)


def folder(root, count=10, classes=("ant", "bee")):
    for c, name in enumerate(classes):
        for i in range(count):
            image(root / name / f"{i}.png", 12 * i + c)
    return root


def test_an_unsplit_folder_is_split_within_each_class_and_by_the_seed(tmp_path):
    whole = source.read(folder(tmp_path, 20))
    found = split(whole, seed=0)
    assert {name: len(part) for name, part in found.items()} == {"train": 28, "val": 6, "test": 6}
    for part in found.values():
        assert np.bincount(part.labels).tolist() == [len(part) // 2] * 2
        assert all(item.parent.name == part.classes[label] for item, label in zip(part.items, part.labels, strict=True))
    everything = [item for part in found.values() for item in part.items]
    assert len(set(everything)) == 40
    assert split(whole, seed=0)["test"].items == found["test"].items
    assert split(whole, seed=1)["test"].items != found["test"].items


def test_equal_files_are_drawn_into_one_split(tmp_path):
    root = folder(tmp_path, 6)
    for i in range(6):
        image(root / "ant" / f"copy{i}.png", 12 * i)
    found = split(source.read(root), seed=3)
    assert not repeated(found)
    side = {item.name: name for name, part in found.items() for item in part.items if item.parent.name == "ant"}
    assert all(side[f"{i}.png"] == side[f"copy{i}.png"] for i in range(6))


def test_given_splits_are_kept_and_what_they_share_is_told(tmp_path):
    for name in ("train", "valid", "test"):
        folder(tmp_path / name, 4)
    found = split(source.read(tmp_path), seed=0)
    assert {name: len(part) for name, part in found.items()} == {"train": 8, "val": 8, "test": 8}
    pairs = [(a, b, len(items)) for a, b, items in repeated(found)]
    assert pairs == [("train", "val", 8), ("train", "test", 8), ("val", "test", 8)]
    shutil.rmtree(tmp_path / "test")
    drawn = split(source.read(tmp_path), seed=0)
    assert len(drawn["train"]) + len(drawn["test"]) == 8


def test_training_and_testing_are_splits_and_a_folder_beside_them_is_refused(tmp_path):
    """Its examples were ignored without a word, and others drawn from the training set in their place."""
    for name in ("Training", "Testing"):
        folder(tmp_path / name, 4)
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "README.txt").write_text("no folder")
    image(tmp_path / ".cache" / "a.png", 0)
    found = source.read(tmp_path)
    assert {name: {item.parts[-3] for item in part.items} for name, part in found.items()} == {
        "train": {"Training"}, "test": {"Testing"},
    }  # fmt: skip
    image(tmp_path / "holdout" / "ant" / "a.png", 0)
    with pytest.raises(ValueError, match=r"holdout' holds files and lies beside the split 'Training': splits are call"):
        source.read(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_are_read_alike(tmp_path, kind):
    rows = [("good, very", "yes"), ("bad\tone", "no"), ("fine", "yes"), ("poor", "no")]
    file = tmp_path / f"reviews.{kind}"
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"review": [a for a, _ in rows], "stars": [b for _, b in rows]}), file)
    elif kind == "jsonl":
        file.write_text("\n".join(json.dumps({"review": a, "stars": b}) for a, b in rows) + "\n\n", encoding="utf-8")
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [mark.join(f'"{cell}"' for cell in row) for row in [("review", "stars"), *rows]]
        file.write_text("﻿" + "\n".join(lines), encoding="utf-8")
    (found,) = source.read(file, text="review", label="stars").values()
    assert found.items == ("good, very", "bad\tone", "fine", "poor")
    assert [found.classes[i] for i in found.labels] == ["yes", "no", "yes", "no"]


def table(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "nowhere' do not exist"),
        (lambda p: table(p, "a,b\n1,2\n"), r"no column 'text'; its columns are \['a', 'b'\]"),
        (lambda p: table(p, "text,label\n"), "has no rows"),
        (lambda p: table(p, "text,label\nx,1\n ,2\n"), "line 3 .* has an empty 'text'"),
        (lambda p: table(p, "text,label\nx,1\ny,1\n"), r"has the classes \['1'\]: a classifier needs two"),
        (lambda p: table(p, '{"text": 1}\nnot json\n', "t.jsonl"), "line 2 .* is no JSON"),
        (lambda p: table(p, "x", "t.xlsx"), "is no table that jtl reads"),
        (lambda p: folder(p / "test", 1) and p, "no folder train/"),
        (
            lambda p: folder(p / "train", 1) and folder(p / "training", 1) and p,
            "the split 'train' twice, as 'train' and 'training'",
        ),
        (lambda p: table(p, "text,label\nx,1\n", "train.csv").parent, r"classes \['1'\]"),
        (lambda p: table(p, "caf\xe9,x".encode("latin1")), "is no table in UTF-8"),
        (lambda p: folder(p, 3, ("ant",)), r"classes \['ant'\]"),
    ],
)
def test_what_cannot_be_learned_from_is_told(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        source.read(make(tmp_path))


def test_parquet_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    file = table(tmp_path, "not parquet", "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet' is no Parquet file"):
        source.read(file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NotInstalled, match="needs pyarrow: pip install pyarrow"):
        source.read(file)


def test_a_column_of_texts_needs_no_labels(tmp_path):
    assert source.column(table(tmp_path, "n,text\n1,good\n2,bad\n"), "text") == ["good", "bad"]
    with pytest.raises(ValueError, match=r"no column 'review'; its columns are \['n', 'text'\]: give --text"):
        source.column(tmp_path / "t.csv", "review")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        source.column(tmp_path / "gone.csv", "text")


def test_a_class_of_two_examples_cannot_be_split(tmp_path):
    with pytest.raises(ValueError, match="class 'ant' has 2 different examples: give at least 3"):
        split(source.read(folder(tmp_path, 2)), seed=0)


def test_tables_are_split_by_their_names(tmp_path):
    table(tmp_path, "text,label\na,1\nb,2\n", "train.csv")
    table(tmp_path, "text,label\nc,2\n", "dev.csv")
    table(tmp_path, '{"text": "d", "label": 1}\n', "test.jsonl")
    found = split(source.read(tmp_path), seed=0)
    assert {name: (part.items, part.labels.tolist()) for name, part in found.items()} == {
        "train": (("a", "b"), [0, 1]), "val": (("c",), [1]), "test": (("d",), [0]),
    }  # fmt: skip


def test_groups_are_whole(tmp_path):
    for c in "ab":
        for speaker in ("anna", "ben", "carl", "dora", "eva"):
            for i in range(3):
                image(tmp_path / c / f"{c}_{speaker}_{i}.png", ord(speaker[0]) + 10 * i + ord(c))
    whole = source.read(tmp_path, group="_(.*)_")
    found = split(whole["all"] and whole, seed=1)
    sets = {name: set(part.groups) for name, part in found.items()}
    assert sum(map(len, sets.values())) == 5
    assert [len(sets[name]) for name in ("train", "val", "test")] == [3, 1, 1]
    assert sum(len(part) for part in found.values()) == 30
    assert all(item.name.split("_")[1] == g for p in found.values() for item, g in zip(p.items, p.groups, strict=True))
    assert sets != {name: set(part.groups) for name, part in split(whole, seed=2).items()}
    for pattern, message in (("_(.*)=", "is not in the name of"), ("(", "is no regex"), ("png", "there are 1 groups")):
        with pytest.raises(ValueError, match=message):
            split(source.read(tmp_path, group=pattern), seed=0)


def test_groups_that_given_splits_share_are_told(tmp_path):
    for name, who in (("train", "ab"), ("val", "c"), ("test", "bda")):
        table(tmp_path, "text,label,who\n" + "".join(f"{w}{i},{i},{w}\n" for w in who for i in (0, 1)), f"{name}.csv")
    found = split(source.read(tmp_path, group="who"), 0)
    assert groups_in_both(found) == [("train", "test", ["a", "b"])]
    assert shared(found)[-1] == "2 groups of train are in test too, as 'a': the scores of test are too good"
    assert groups_in_both(split(source.read(tmp_path), 0)) == []


def test_what_validation_and_test_share_is_told(tmp_path):
    """The network is chosen by it, so a copy of a test example makes the test scores too good."""
    for name, who in (("train", "ab"), ("val", "cd"), ("test", "ed")):
        table(tmp_path, "text,label,who\n" + "".join(f"{w}{i},{i},{w}\n" for w in who for i in (0, 1)), f"{name}.csv")
    assert shared(split(source.read(tmp_path, group="who"), 0)) == [
        "2 examples of test are in val too, as 'd0': the scores of test are too good",
        "1 groups of val are in test too, as 'd': the scores of test are too good",
    ]


def test_a_class_that_no_training_group_has_is_told(tmp_path):
    rows = [f"t{i},{'rare' if i == 0 else 'usual'},{i}" for i in range(4)]
    file = table(tmp_path, "\n".join(["text,label,who", *rows]))
    # `split` deals a permutation of the groups: the first to val, the second to test.
    good = next(i for i in range(99) if 0 in np.random.default_rng(i).permutation(4)[2:])
    assert set(split(source.read(file, group="who"), good)["train"].labels.tolist()) == {0, 1}
    seed = next(i for i in range(99) if 0 in np.random.default_rng(i).permutation(4)[:2])
    with pytest.raises(ValueError, match="class 'rare' is only in groups that were drawn for val and test"):
        split(source.read(file, group="who"), seed)


def test_a_folder_holds_one_kind(tmp_path):
    folder(tmp_path, 2)
    (tmp_path / "ant" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="is not a sound file"):
        source.read(tmp_path)


def test_images_are_found_below_folders(tmp_path):
    folder(tmp_path, 2)
    assert [file.name for file in source.files_of([str(tmp_path)])] == ["0.png", "1.png"] * 2
    with pytest.raises(FileNotFoundError, match=r"gone\.png' does not exist"):
        source.files_of([str(tmp_path / "gone.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in"):
        source.files_of([str(tmp_path / "empty")])


def test_hidden_files_and_folders_do_not_decide_the_kind(tmp_path):
    folder(tmp_path, 3)
    for place in (".trash/song.mp3", "ant/.memo.wav", "__MACOSX/._song.mp3"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"x")
    (found,) = source.read(tmp_path).values()
    assert (found.kind, len(found)) == ("images", 6)


def test_a_class_whose_name_no_file_can_hold_is_refused(tmp_path):
    folder(tmp_path, 3, ("ant", os.fsdecode(b"caf\xe9")))
    with pytest.raises(ValueError, match=r"has the class 'caf\\udce9', which is not UTF-8"):
        source.read(tmp_path)
    lines = [json.dumps({"text": "a", "label": name}) for name in ("no", "\ud83d")]  # half of a character's escape
    with pytest.raises(ValueError, match="which is not UTF-8"):
        source.read(table(tmp_path, "\n".join(lines), "t.jsonl"))

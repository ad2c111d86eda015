"""`jtl adapt` on tables of texts and on folders of sounds, from end to end, with small random networks."""

import csv
import json

import made
import numpy as np
import pytest

import jtl
from jtl import cli
from jtl.command import adapt as adapt_command
from jtl.command import source
from jtl.command.adapt_settings import AdaptSettings

SHORT = ["--steps", "3", "--batch", "4", "--learning-rate", "0.001"]
GOOD, BAD = ("a good film", "the film good"), ("a bad film", "bad the film")


def table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Books with labels, kitchens without, and one text that is longer than what is read."""
    root = tmp_path_factory.mktemp("texts")
    books = [
        (text + " a" * (i % 5), name) for i in range(10) for name, text in (("no", BAD[i % 2]), ("yes", GOOD[i % 2]))
    ]
    table(root / "books.csv", [("text", "label"), *books])
    kitchen = [(f"the {text}" + " film" * (i % 3),) for i in range(6) for text in (*GOOD, *BAD)]
    table(root / "kitchen.csv", [("text",), *kitchen, ("good film " * 100,)])
    table(root / "judged.csv", [("text", "label"), *((text, "yes" if "good" in text else "no") for (text,) in kitchen)])
    made.of_texts(root / "net", ("good", "bad", "film", "a", "the"))
    return root


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Tones of two heights with labels, and others, of other speakers, without."""
    pytest.importorskip("soundfile")
    root = tmp_path_factory.mktemp("sounds")
    for seed, (name, hertz) in enumerate((("high", 3000), ("low", 200))):
        made.tones(root / "studio" / name, hertz, ("anna", "ben", "carl"), seed)
        made.tones(root / "phone" / name, 2 * hertz, ("dora", "emil"), 2 + seed)
    made.of_sounds(root / "net")
    return root


def adapt(root, source, target, method, *more):
    words = ["adapt", str(root / source), str(root / target), "--weights", str(root / "net"), "--method", method]
    assert cli.main([*words, "--out", str(root / method), *SHORT, *more]) == 0
    return root / method, json.loads((root / method / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.compiling
def test_texts_are_adapted_predicted_and_judged(texts, capsys):
    run, about = adapt(texts, "books.csv", "kitchen.csv", "coral")
    assert about["kind"] == "texts"
    assert about["notes"] == ["target: 1 of 25 texts are longer than 128 tokens: the rest of these is not used"]
    assert about["chosen"] in (0, 1, 2, 3)
    assert all(np.isfinite(value) for scores in about["scores"].values() for value in scores.values())
    assert "Some predictions on the target" in (run / "report.html").read_text()
    terms = [row for row in jtl.train.read_json_lines(run / "metrics.jsonl") if row["split"] == "train"]
    assert all(row["coral"] > 0 for row in terms)
    capsys.readouterr()
    assert cli.main(["predict", str(run), "a good film", "bad", "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["eval", str(run), str(texts / "judged.csv")]) == 0
    assert "of 24" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.compiling
def test_sounds_are_adapted_predicted_and_judged(sounds, capsys):
    run, about = adapt(sounds, "studio", "phone", "dann", "--labelled", "--ways", "all")
    assert about["kind"] == "sounds"
    assert about["classes"] == ["high", "low"]
    assert about["seconds"] == 750 / 16000
    assert np.sum(about["target"]["after"]["confusion"]) == 16
    assert "data:audio/wav;base64," in (run / "report.html").read_text()
    assert cli.main(["eval", str(run), str(sounds / "phone")]) == 0
    told = f"accuracy {100 * about['target']['after']['accuracy']:.1f} % of 16"
    assert told in capsys.readouterr().out
    capsys.readouterr()
    assert cli.main(["predict", str(run), str(sounds / "phone" / "low"), "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


class _Seen(Exception):
    """The examples that decide the length of texts."""


def test_no_text_of_the_source_or_the_judged_target_is_cut_by_the_length_of_others(texts, tmp_path, monkeypatch):
    def seen(loaded, weights, kind, items, size, *, others=()):
        raise _Seen(set(items), set(others))

    (tmp_path / "test.csv").write_text((texts / "judged.csv").read_text())
    labels = "text,label\n" + "".join(f"film {i},{name}\n" for i in range(3) for name in ("no", "yes"))
    (tmp_path / "train.csv").write_text(labels)
    places = (texts / "books.csv", tmp_path, str(texts / "net"), "coral", tmp_path / "run")
    monkeypatch.setattr(adapt_command, "inputs_of", seen)
    with pytest.raises(_Seen) as error:
        adapt_command.run(AdaptSettings(*places, labelled=True), lambda line: None)
    items, others = error.value.args
    assert items == set(source.column(texts / "books.csv", "text")) | {f"film {i}" for i in range(3)}
    assert others == set(source.column(texts / "judged.csv", "text"))


def test_kinds_that_differ_are_refused(texts, sounds, capsys):
    words = ["--method", "mcc", "--weights", str(texts / "net"), "--out", str(texts / "none")]
    assert cli.main(["adapt", str(texts / "books.csv"), str(sounds / "phone"), *words]) == 2
    assert "phone" in capsys.readouterr().err
    assert cli.main(["adapt", str(sounds / "studio"), str(texts / "kitchen.csv"), *words]) == 2
    assert "kitchen.csv" in capsys.readouterr().err

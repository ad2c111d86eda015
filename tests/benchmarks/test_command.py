"""The benchmark of `jtl finetune`: what its rows read, and how they are written."""

import json
from types import SimpleNamespace

from benchmarks import command
from jtl.command import source
from jtl.recipes.parts import texts


def test_sentences_are_drawn_from_the_training_split_by_seed(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_DATA", str(real_data("text").parent))
    train, test = (texts.read(real_data(f"text/sst2/{split}.tsv")) for split in ("train", "test"))
    drawn = [source.read(command.reviews(tmp_path, seed)) for seed in (0, 1)]
    for read in drawn:
        assert list(read["test"].items) == test.texts
        few = read["train"]
        assert len(few) == 200
        pairs = zip(few.items, (few.classes[label] for label in few.labels), strict=True)
        assert {*pairs} <= {*zip(train.texts, map(str, train.labels), strict=True)}
    assert len({*drawn[0]["train"].items} & {*drawn[1]["train"].items}) < 40


def test_a_row_has_each_seed_and_keeps_the_other_rows(monkeypatch, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"chosen": "head"}))
    asked = []

    def finetune_files(data, weights, out, *, say, **settings):
        asked.append((data, weights, settings))
        count = len(asked)
        scores = SimpleNamespace(numbers=lambda: {"accuracy": 0.25 * count})
        return SimpleNamespace(test=scores, validation=scores, folder=run)

    monkeypatch.setattr(command.jtl, "finetune_files", finetune_files)
    cases = tuple(
        command.Case(name, lambda folder, seed: folder / str(seed), lambda folder: folder, {"ways": "last"})
        for name in ("one", "two")
    )
    monkeypatch.setattr(command, "CASES", cases)
    path = tmp_path / "found.json"
    command.main(["--json", str(path)])
    command.main(["--json", str(path), "--only", "two", "--seeds", "2"])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["case"], row["test"], row["kept"]) for row in rows] == [
        ("one", [25.0], ["head"]),
        ("two", [75.0, 100.0], ["head", "head"]),
    ]
    assert [settings["seed"] for _, _, settings in asked] == [0, 0, 0, 1]

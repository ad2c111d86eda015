"""The words and the folders of a sweep's runs, and runs that fail."""

import csv
import json
import re
from pathlib import Path
from urllib.parse import unquote

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import cli
from jtl.command import sweep
from jtl.command.grid import name_of, points, words_of
from jtl.command.settings import Settings
from jtl.command.sweep_commands import _parsed, ranking
from jtl.train import NonFiniteLoss


def test_flags_are_options_of_a_grid():
    for grid in ("balanced=True,False", "balanced=true,false"):
        assert ranking(["finetune", "photos", "--weights", "net"], [grid], None) == "validation accuracy"
        read = [_parsed(Settings, ["photos", "--weights", "net", *words_of(point)]) for point in points([grid])]
        assert [settings.balanced for settings in read] == [True, False]
    assert words_of({"stage.early_stop": "false"}) == ["--stage.no-early-stop"]


def test_no_two_points_share_a_folder():
    names = [name_of(point) for point in points(["weights=a/b,a_b,a/b/c", "seed=0,1"])]
    assert len(set(names)) == 6
    assert names[2] == "weights=a_b-seed=0"
    assert "/" not in "".join(names)
    for letter in ("é", "数"):
        assert len(name_of({"weights": "/" + 300 * letter}).encode()) <= 255  # as file systems have it


def _execute(words):
    rate = float(words[words.index("--learning-rate") + 1])
    if rate == 2:
        raise FileNotFoundError("no such weights")
    if rate == 3:
        jnp.zeros(1 << 50)  # more bytes than any machine has
    if rate > 1:
        raise NonFiniteLoss(f"the loss of {rate} is nan")
    if rate == 1 and "--seed" in words and words[words.index("--seed") + 1] == "1":
        raise ValueError("no such column")
    return {"other": 2.0, "accuracy": rate}


def test_a_run_that_fails_does_not_end_the_sweep(tmp_path, capsys):
    grid, seen = ["learning_rate=5,0.1,0.3"], []

    def execute(words):
        seen.append(words)
        return _execute(words)

    rows = sweep.run(["train", "x"], grid, tmp_path, execute)
    assert "run 1 failed: the loss of 5.0 is nan" in capsys.readouterr().out
    ranks = sweep.ranked(rows, "accuracy")
    assert [rank.settings["learning_rate"] for rank in ranks] == ["0.3", "0.1", "5"]
    assert np.isnan(ranks[-1].mean)
    page = sweep.write(ranks, "accuracy", tmp_path, ["train", "x"], None, sweep.failures(rows)).read_text()
    assert "the loss of 5.0 is nan" in page
    with open(tmp_path / "sweep.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["accuracy"], line["other"], line["seeds"], line["failed"]) for line in lines] == [
        ("0.3", "2", "1", "0"), ("0.1", "2", "1", "0"), ("nan", "nan", "1", "1"),
    ]  # fmt: skip
    assert sweep.run(["train", "x"], grid, tmp_path, execute) == rows
    assert len(seen) == 3  # what diverged would diverge again


def test_the_best_run_is_named_and_reports_are_linked_from_beside_them(tmp_path, capsys, monkeypatch):
    """Also for a folder whose name has a meaning in addresses, and without the sweep's own folder in the link."""

    def execute(recipe):
        def run(words):
            out = Path(words[-1])
            out.mkdir()
            (out / "report.html").write_text("a report")
            return {"validation accuracy": float(words[words.index("--learning-rate") + 1]) + (out.name[-1] == "1")}

        return run

    monkeypatch.setattr("jtl.command.sweep_commands.execute", execute)
    words = ["sweep", str(tmp_path / "a sweep"), "--grid", "learning_rate=0.1,0.3", "weights=50%#?", "seed=0,1"]
    assert cli.main([*words, "--", "finetune", "photos", "--ways", "all"]) == 0
    best = tmp_path / "a sweep" / "learning_rate=0.3-weights=50%#?-seed=1"
    assert best.is_dir()
    told = f"best run: {best}\npredict: jtl predict '{best}' FILE...\n"
    assert capsys.readouterr().out.endswith(told)
    page = (tmp_path / "a sweep" / "sweep.html").read_text()
    assert f"the folder {best.name}<" in page
    links = re.findall("<a href='(.*?)'>(.*?)</a>", page)
    assert [text for _, text in links] == ["seed 1", "seed 0"] * 2
    assert unquote(links[0][0]) == f"{best.name}/report.html"
    assert all((tmp_path / "a sweep" / unquote(link)).is_file() and "?" not in link for link, _ in links)


def test_a_run_without_memory_is_told_and_tried_again(tmp_path, capsys):
    grid = ["learning_rate=3,0.5"]
    rows = sweep.run(["train", "x"], grid, tmp_path, _execute)
    assert "run 1 failed: the device has too little memory: give a smaller --batch" in capsys.readouterr().out
    assert ["refused" in row for row in rows] == [True, False]
    seen = []
    sweep.run(["train", "x"], grid, tmp_path, lambda words: seen.append(words) or {"accuracy": 1.0})
    assert len(seen) == 1


def test_a_run_that_was_refused_is_tried_again(tmp_path):
    grid = ["learning_rate=1,0.5", "seed=0,1"]
    rows = sweep.run(["train", "x"], grid, tmp_path, _execute)
    ranks = sweep.ranked(rows, "accuracy")
    assert [(rank.mean, rank.failed, rank.half) for rank in ranks] == [(0.5, 0, 0.0), (1.0, 1, 0.0)]
    assert sweep.failures(rows) == [("learning_rate=1, seed=1", "no such column")]
    again = sweep.run(["train", "x"], grid, tmp_path, lambda words: {"other": 1.0, "accuracy": 0.9})
    assert [row["numbers"]["accuracy"] for row in again] == [1.0, 0.9, 0.5, 0.5]
    assert len(json.loads((tmp_path / "sweep.json").read_text())["rows"]) == 4
    with pytest.raises(ValueError, match=r"all 2 runs of the sweep failed:\nlearning_rate=2: .*\nlearning_rate=4: "):
        sweep.ranked(sweep.run(["train", "x"], ["learning_rate=2,4"], tmp_path / "b", _execute), "accuracy")


RECIPE = '''"""A recipe that diverges at a high rate."""
from dataclasses import dataclass
from pathlib import Path

from jtl.train import NonFiniteLoss


@dataclass(frozen=True)
class Recipe:
    """A number.

    Args:
      out: unused.
      rate: of the loss.
      halved: as it says.
    """

    out: Path = Path("runs")
    rate: float = 0.1
    halved: bool = True

    def train(self):
        if self.rate > 1:
            raise NonFiniteLoss("the loss is nan")
        return {"score": self.rate / (1 + self.halved)}
'''


def test_a_sweep_whose_run_diverged_ends_with_status_1(tmp_path, capsys):
    (tmp_path / "made.py").write_text(RECIPE)
    words = ["sweep", str(tmp_path / "s"), "--grid", "rate=9,0.5", "halved=true,false", "--by", "score"]
    assert cli.main([*words, "--", "train", str(tmp_path / "made.py")]) == 1
    told = capsys.readouterr()
    assert told.err.count("jtl: the run of rate=9, halved=") == 2
    scores = [line.split()[2] for line in told.out.splitlines() if line.startswith("rate=")]
    assert scores == ["0.5", "0.25", "nan", "nan"]


def test_options_that_do_not_go_together_are_told_before_all_runs():
    command = ["finetune", "photos", "--weights", "w"]
    with pytest.raises(ValueError, match=r"^learning_rate=0\.01 with ways='head'"):
        ranking(command, ["ways=head,last", "learning_rate=1e-2,1e-4"], None)
    assert ranking(command, ["ways=last,all", "learning_rate=1e-2,1e-4"], None) == "validation accuracy"

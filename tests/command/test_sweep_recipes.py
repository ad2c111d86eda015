"""`jtl sweep ... -- train RECIPE` from end to end, with a recipe of one's own that trains for a few steps."""

import csv
import json

import numpy as np
import pytest

from jtl import cli

RECIPE = '''"""Two groups of points."""
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

import jtl
from jtl.recipes.parts.runs import TrainRun


@dataclass(frozen=True)
class Recipe:
    """A linear classifier on points.

    Args:
      out: where the run goes.
      seed: of the weights.
      stage: the run.
    """

    out: Path = Path("runs/points")
    seed: int = 0
    stage: TrainRun = field(default_factory=lambda: TrainRun(steps=1, batch=8, learning_rate=0.1))

    def train(self):
        y = np.arange(32) % 2
        x = (np.random.default_rng(0).normal(size=(32, 2)) + 2 * y[:, None]).astype(np.float32)
        net = jtl.network(backbone=jtl.backbones.identity(), head=jtl.heads.linear(2))
        start, rows = net.init(jax.random.key(self.seed), x), jtl.data.arrays(x, y, batch_size=8)
        key = jax.random.key(self.seed)
        done = self.stage.run(jtl.finetune(net), start, rows, self.out, text="points", key=key)
        found = jtl.evaluate(jtl.evaluation(net), jtl.variables(done.state), rows)
        (self.out / "found.txt").write_text(str(found["loss"]))
        return {"failed": ["a claim that does not hold"], "points": {"loss": found["loss"]}}
'''


@pytest.mark.slow
@pytest.mark.compiling
def test_a_sweep_of_a_recipe_ranks_its_runs_and_resumes(tmp_path, capsys):
    recipe, out = tmp_path / "points.py", tmp_path / "sweep"
    recipe.write_text(RECIPE)
    words = ["sweep", str(out), "--grid", "stage.learning_rate=0.001,0.3", "seed=0,1", "--by", "points/loss", "--low"]
    words += ["--", "train", str(recipe), "--stage.steps", "12"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "run 4 of 4: --stage.learning-rate 0.3 --seed 1" in said
    with open(out / "sweep.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["settings"] for line in lines] == ["stage.learning_rate=0.3", "stage.learning_rate=0.001"]
    for line in lines:  # the mean over seeds of what each run wrote by itself
        losses = [float((out / f"{line['settings']}-seed={i}" / "found.txt").read_text()) for i in (0, 1)]
        assert float(line["points/loss"].split(" ± ")[0]) == pytest.approx(np.mean(losses), rel=1e-3)
        assert line["seeds"] == "2"
    assert "Best: stage.learning_rate=0.3" in (out / "sweep.html").read_text()
    assert cli.main(["train", str(recipe), "--stage.steps", "12", "--stage.learning-rate", "0.3", "--seed", "1",
                     "--out", str(tmp_path / "alone")]) == 1  # fmt: skip
    rows = json.loads((out / "sweep.json").read_text())["rows"]
    alone = float((tmp_path / "alone" / "found.txt").read_text())
    assert rows[-1]["numbers"] == {"points/loss": pytest.approx(alone, rel=1e-6)}
    capsys.readouterr()
    assert cli.main(words) == 0
    assert "run " not in capsys.readouterr().out.replace("sweep.html", "")
    assert cli.main([*words[:5], "--by", "points/accuracy", *words[8:]]) == 2
    assert "the runs have the numbers ['points/loss']" in capsys.readouterr().err


def test_a_recipe_that_is_not_there_is_told(tmp_path, capsys):
    assert cli.main(["sweep", str(tmp_path / "s"), "--grid", "seed=0", "--by", "x", "--", "train", "no_such"]) == 2
    assert "no recipe 'no_such'" in capsys.readouterr().err
    assert cli.main(["sweep", str(tmp_path / "s"), "--grid", "seed=0", "--by", "x", "--", "train"]) == 2
    assert "name a recipe" in capsys.readouterr().err

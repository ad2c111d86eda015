"""Checkpoints of recipes: scored on other data than their own, and exported where a format has such a network."""

import jax
import made
import numpy as np
import optax
import pytest

import jtl
from jtl import cli
from jtl.train.step import make_step

RECIPE = '''"""A small ViT for photos."""
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import jtl
from jtl.preprocess import pixels
from jtl.preprocess.image import Preprocessing
from jtl.recipes.parts.base import Network


@dataclass(frozen=True)
class Recipe:
    """A loaded network.

    Args:
      weights: where the network is.
      parts: whether to keep silent that it was loaded, as if it were built of parts.
    """

    weights: Path = Path("bare")
    parts: bool = False

    def network(self):
        known = jtl.load(self.weights, classes=("ants", "bees"), reinit=("head/.*",), key=jax.random.key(0))
        known = known._replace(preprocessing=Preprocessing(None, None, "bilinear", (0.5,) * 3, (0.5,) * 3))
        given = known.variables, known.network, jtl.select(".*"), 0.1, ("ants", "bees")
        return Network(*given, _read, loaded=None if self.parts else known)


def _read(path):
    return np.asarray(pixels.decode(path, "RGB"), np.float32) / 127.5 - 1
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos, a recipe's file, and checkpoints of its network with a critic next to it."""
    root = tmp_path_factory.mktemp("recipe")
    made.listed_photos(root)
    (root / "small.py").write_text(RECIPE)
    loaded = jtl.load(root / "bare", classes=("ants", "bees"), reinit=("head/.*",), key=jax.random.key(1))
    given = loaded.variables._replace(params={**loaded.variables.params, "critic": {"w": np.zeros(2, np.float32)}})
    state = make_step(lambda *a: None, optax.sgd(0.1)).init(given, jax.random.key(0))  # pyright: ignore
    for name, option in (("run", ""), ("parts", " --parts")):
        with jtl.Checkpoints(root / name, recipe=f"jtl train small.py{option}") as saver:
            saver.save(state)
    return root


def shares(text):
    """The classes that a command printed for each photo, with their shares."""
    return [line.split(": ")[1] for line in text.splitlines() if ".png: " in line]


def test_a_recipes_run_is_scored_on_other_data_and_exported(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    photos = [str(path) for path in sorted((world / "photos").glob("*/*.png"))]
    said = ["--recipe", "small.py"]
    assert cli.main(["predict", "run", *photos, *said]) == 0
    found = shares(capsys.readouterr().out)
    right = sum(line.startswith(path.split("/")[-2]) for line, path in zip(found, photos, strict=True))
    for data in (["photos"], ["photos.csv", "--file", "file"]):
        assert cli.main(["eval", "run", *data, *said]) == 0
        assert f"accuracy {25 * right:.1f} % of 4\nants: precision" in capsys.readouterr().out
    assert cli.main(["eval", "run", "photos.csv", "--text", "file", *said]) == 2
    assert "'photos.csv' holds texts, and the recipe's network takes files" in capsys.readouterr().err
    assert cli.main(["export", "run", "out", *said]) == 0
    assert "out: written for hf" in capsys.readouterr().out
    assert cli.main(["predict", "out", *photos]) == 0
    assert shares(capsys.readouterr().out) == found


def test_a_network_of_parts_is_not_exported(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    assert cli.main(["export", "parts", "--format", "hf", "--recipe", "small.py"]) == 2
    told = capsys.readouterr().err
    assert "none of the formats hf, timm, torchvision and jtl can describe it" in told
    assert not (world / "parts" / "export-hf").exists()

"""Options that a command cannot use are told, and not passed over."""

import jax
import made
import numpy as np
import optax
import pytest

import jtl
from jtl import cli
from jtl.train.step import make_step


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos in folders and in a table, a network of images without and with classes, and checkpoints of a recipe."""
    root = tmp_path_factory.mktemp("ignored")
    made.listed_photos(root)
    step = make_step(lambda *a: None, optax.sgd(0.1))  # pyright: ignore
    saver = jtl.Checkpoints(root / "recipe", recipe="jtl train digits")
    saver.save(step.init(jtl.Variables({"w": np.zeros(2, np.float32)}, {}), jax.random.key(0)))
    saver.wait()
    return root


@pytest.mark.parametrize("option", ["text", "label", "file"])
def test_a_recipes_checkpoints_are_evaluated_without_columns(world, option, capsys):
    assert cli.main(["eval", str(world / "recipe"), f"--{option}", "x"]) == 2
    told = capsys.readouterr().err
    assert f"--{option} 'x' is a column of DATA: without DATA a recipe's own test set is used" in told


def test_the_runs_that_take_a_column_of_files_are_named(world, capsys):
    assert cli.main(["predict", str(world / "recipe"), "a.png", "--file", "x"]) == 2
    assert "--file is for runs of `jtl finetune`, `jtl adapt` and `jtl adapt-few`, and" in capsys.readouterr().err


def test_a_network_of_images_takes_no_column_of_texts(world, capsys):
    assert cli.main(["predict", str(world / "few"), str(world / "photos.csv"), "--text", "label"]) == 2
    assert "--text 'label': the network takes images; give --file COLUMN" in capsys.readouterr().err


def test_a_ranking_takes_a_column_of_texts_or_of_files(world, capsys):
    words = ["rank", str(world / "photos.csv"), str(world / "bare"), "--text", "review", "--file", "file"]
    assert cli.main(words) == 2
    assert "--text 'review' and --file 'file': the examples of a table are texts or files" in capsys.readouterr().err

"""Whose checkpoints a recipe replaces, and when; and whose code the commands run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from jtl import cli
from jtl.recipes.digits import Recipe
from jtl.recipes.parts.checkpoint_folder import check_own, replace_checkpoint
from jtl.train.checkpoint.checkpoints import Checkpoints

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from dataclasses import dataclass

@dataclass(frozen=True)
class Recipe:
    \"\"\"One.\"\"\"
    out: Path = Path("x")
    def evaluate(self, variables):
        return {{"leaves": float(len(variables.params))}}
"""


@pytest.fixture(scope="module")
def state():
    net = jtl.network(backbone=jtl.backbones.mlp((4,)), head=jtl.heads.linear(3))
    step = jtl.make_step(jtl.finetune(net), optax.sgd(0.1))
    return step.init(net.init(jax.random.key(0), jnp.ones((2, 5))), jax.random.key(1))


def saved(folder, state, recipe):
    with Checkpoints(folder, recipe=recipe) as checkpoints:
        checkpoints.save(state)
    return folder


@pytest.mark.parametrize("recipe", ["jtl train usps_dann", "jtl train digit", ""])
def test_another_runs_checkpoints_are_refused_before_anything_is_done(recipe, state, tmp_path, capsys):
    folder = saved(tmp_path / "checkpoints", state, recipe)
    (tmp_path / "digit_mine.png").write_bytes(b"mine")
    assert cli.main(["train", "digits", "--out", str(tmp_path), "--seeds", "1"]) == 2
    assert "which this run would replace; give another --out" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match=r"holds a checkpoint (of `jtl train|that no recipe wrote)"):
        replace_checkpoint(folder, state, "jtl train digits")
    assert Checkpoints(folder).about()["recipe"] == recipe
    assert (tmp_path / "digit_mine.png").exists()
    assert not check_own(tmp_path / "absent", "digits")


def test_its_own_are_replaced_once_the_new_one_is_written(state, tmp_path, monkeypatch):
    folder = saved(tmp_path / "checkpoints", state._replace(step=jnp.int32(70)), "jtl train digits --seed 3")
    (folder / "notes.txt").write_text("mine")

    def full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as during:
        during.setattr(Checkpoints, "save", full)
        with pytest.raises(OSError, match="No space left"):
            replace_checkpoint(folder, state, "jtl train digits")
    assert Checkpoints(folder).steps() == [70]
    replace_checkpoint(folder, state, "jtl train digits")
    assert Checkpoints(folder).steps() == [0]
    assert (folder / "notes.txt").read_text() == "mine"
    jax.tree.map(np.testing.assert_array_equal, Checkpoints(folder).variables().params, state.params)


def test_a_file_that_a_checkpoint_names_is_not_run_unless_the_user_names_it(state, tmp_path, capsys):
    mark, evil = tmp_path / "ran", tmp_path / "evil.py"
    evil.write_text(EVIL.format(mark=str(mark)))
    folder = saved(tmp_path / "run", state, f"jtl train {evil}")
    for command in (["predict", str(folder), "x.png"], ["eval", str(folder)]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert (
            f"names the recipe file {str(evil)!r}, whose code is run only if you name it: add --recipe {evil}" in said
        )
        assert not mark.exists()
    assert cli.main(["eval", str(folder), "--recipe", str(evil)]) == 0
    assert "leaves 2" in capsys.readouterr().out
    assert mark.exists()
    assert cli.main(["eval", str(folder), "--recipe", "digits"]) == 2
    assert "--recipe 'digits': give the path of a .py file" in capsys.readouterr().err
    other = saved(tmp_path / "other", state, "")
    assert cli.main(["eval", str(other)]) == 2
    assert cli.main(["eval", str(other), "--recipe", str(evil)]) == 0


def test_a_home_folder_in_an_option_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = cli._load("digits", ["--out=~/runs"], "jtl train digits")
    assert isinstance(found, Recipe)
    assert found.out == tmp_path / "runs"

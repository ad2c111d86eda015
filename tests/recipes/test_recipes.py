import shlex
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from PIL import Image

from jtl import cli
from jtl.backbones import mlp
from jtl.model import Model
from jtl.recipes import usps_dann
from jtl.recipes.parts.base import find
from jtl.recipes.parts.runs import TrainRun
from jtl.train.checkpoint.checkpoints import Checkpoints


def launch(name, out, root, *options):
    words = ["train", name, "--out", str(out), "--data", str(root), *options]
    return cli.main(words), words


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.first
def test_cifar_runs_and_its_checkpoint_is_applied(real_data, tmp_path, capsys):
    for name in ("cifar10.npz", "cifar100.npz"):
        with np.load(real_data(name)) as whole:
            few = {part: whole[part] if part == "names" else whole[part][:200] for part in whole}
        np.savez(tmp_path / name, **few)
    root = tmp_path
    small = [f"--{stage}.{option}" for stage in ("pretrain", "tune", "scratch") for option in ("steps 2", "batch 8")]
    code, _ = launch("cifar", tmp_path, root, *shlex.split(" ".join(small)))
    printed = capsys.readouterr().out
    assert code in (0, 1), "two steps decide nothing"
    assert "CIFAR-100, test accuracy in percent" in printed
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)).save(photo)
    assert cli.main(["predict", str(tmp_path / "fine-tuning" / "checkpoints"), str(photo)]) == 0
    with np.load(root / "cifar100.npz") as file:
        names = set(file["names"])
    assert capsys.readouterr().out.split(": ")[1].split(" (")[0] in names


TINY = TrainRun(steps=2, batch=8, learning_rate=1e-3)
WAYS = ("source only", "dann")


@dataclass(frozen=True)
class WithoutBatchNorm(usps_dann.Recipe):
    backbone: Model = mlp((16,))


def ends(recipe):
    """The last variables of both ways."""
    recipe.train()
    return [Checkpoints(recipe.out / name / "checkpoints").variables() for name in WAYS]


@pytest.mark.slow
def test_usps_differs_by_the_alignment_alone(real_data, tmp_path):
    """With λ = 0 the critic sends nothing back, so two networks that see rows one by one learn the same."""
    root = real_data("usps.npz").parent
    alone, adapted = ends(WithoutBatchNorm(out=tmp_path, data=root, stage=TINY, weight=0.0))
    for part in ("backbone", "head"):
        # Two programs, so equal to rounding over two steps of adam.
        same = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), alone.params[part], adapted.params[part])
        assert all(jax.tree.leaves(same)), part
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), alone.params["critic"], adapted.params["critic"])
    assert any(jax.tree.leaves(moved)), "the critic learned in one of them"


@pytest.mark.slow
@pytest.mark.compiling
def test_the_baseline_of_usps_does_not_see_the_target(real_data, tmp_path):
    """Other images of the target change what DANN learns; the baseline they leave alone, BatchNorm's statistics too."""
    real, other = real_data("usps.npz").parent, tmp_path / "other"
    other.mkdir()
    (other / "tfds").symlink_to(real / "tfds")
    with np.load(real / "usps.npz") as file:
        digits = dict(file)
    np.savez(other / "usps.npz", **{**digits, "x_train": 255 - digits["x_train"]})
    found = [
        ends(usps_dann.Recipe(out=tmp_path / f"run{i}", data=root, stage=TINY)) for i, root in enumerate((real, other))
    ]
    (alone, adapted), (alone_again, adapted_otherwise) = found
    jax.tree.map(np.testing.assert_array_equal, alone, alone_again)
    for a, b in ((adapted.params, adapted_otherwise.params), (adapted.stats, adapted_otherwise.stats)):
        assert any(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.first
def test_omniglot_runs_and_goes_on(real_data, tmp_path, capsys):
    root = real_data("omniglot28.npz").parent
    small = ["--stage.batch", "2", "--stage.every", "1", "--test-tasks", "20", "--query", "2", "--order", "1"]
    assert launch("omniglot_maml", tmp_path, root, *small, "--stage.steps", "1")[0] in (0, 1)
    launch("omniglot_maml", tmp_path, root, *small, "--stage.steps", "2")
    assert "resuming from step 1" in capsys.readouterr().out
    assert Checkpoints(tmp_path / "checkpoints").steps()[-1] == 2
    assert cli.main(["predict", str(tmp_path / "checkpoints"), __file__]) == 2
    assert "classes that are new in each task" in capsys.readouterr().err


def test_a_missing_file_is_named_with_what_is_there(tmp_path, monkeypatch):
    (tmp_path / "other.npz").touch()
    with pytest.raises(FileNotFoundError, match=r"no 'usps.npz' in .* there are \['other.npz'\]"):
        find(tmp_path, "usps.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find(tmp_path / "absent", "usps.npz")
    monkeypatch.delenv("JTL_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set JTL_DATA"):
        find(None, "usps.npz")

"""The commands from end to end, on small pictures that a random network can tell apart."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl import cli
from jtl.command.settings import Settings
from jtl.command.tune import trained_by
from jtl.pretrained.folded import folded

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of red and blue pictures, and a small ResNet in transformers' files."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    root, draw = tmp_path_factory.mktemp("command"), np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(14):
            pixels = draw.integers(0, 90, (40, 36, 3))
            pixels[..., channel] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / name / f"{i}.png")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(root / "weights")
    return root


@pytest.fixture(scope="module")
def run(made):
    code = cli.main([
        "finetune", str(made / "photos"), "--weights", str(made / "weights"), "--out", str(made / "run"),
        "--size", "32", "--ways", "all", "--steps", "6", "--batch", "8", "--learning-rate", "0.001",
    ])  # fmt: skip
    assert code == 0
    return made / "run"


def test_a_run_holds_all_that_is_needed_and_its_scores_are_those_of_its_network(made, run):
    about = json.loads((run / "run.json").read_text())
    assert about["classes"] == ["blue", "red"]
    assert about["settings"]["steps"] == 6
    assert about["validation"]["accuracy"] == 1.0  # a channel's mean tells the two apart
    page = (run / "report.html").read_text()
    assert page.count("<img") > 4
    for word in ("Confusion matrix", "precision", "backbone/", "jax"):
        assert word in page
    assert "http" not in page.replace("http-equiv", "")
    loaded = jtl.load(run / "model")
    assert loaded.labels == ("blue", "red")
    assert loaded.preprocessing.crop == 32


def test_a_run_goes_on_with_more_steps_and_another_is_refused(made, run, tmp_path, capsys):
    again = shutil.copytree(run, tmp_path / "again")
    before = (again / "run.json").read_text()
    words = ["finetune", str(made / "photos"), "--weights", str(made / "weights"), "--out", str(again), "--ways", "all"]
    words += ["--size", "32", "--batch", "8"]
    assert cli.main([*words, "--steps", "6", "--learning-rate", "0.002", "--seed", "1"]) == 2
    told = capsys.readouterr().err
    assert "holds another run, then -> now: learning_rate 0.001 -> 0.002, seed 0 -> 1; give --out" in told
    assert (again / "run.json").read_text() == before
    assert cli.main([*words, "--steps", "6", "--learning-rate", "0.001"]) == 0
    assert "1 of 8 devices train, with" in capsys.readouterr().out
    assert "training and validation loss by step" in (again / "report.html").read_text()
    assert json.loads((again / "run.json").read_text())["test"] == json.loads(before)["test"]


def test_a_killed_run_is_resumed_by_the_same_command_and_not_from_other_weights(made, run, tmp_path, capsys):
    again, other = shutil.copytree(run, tmp_path / "again"), shutil.copytree(made / "weights", tmp_path / "other")
    before = json.loads((again / "run.json").read_text())
    (again / "run.json").unlink()  # it is written last
    shutil.rmtree(again / "model")
    words = ["finetune", str(made / "photos"), "--out", str(again), "--ways", "all", "--size", "32", "--batch", "8"]
    words += ["--steps", "6", "--learning-rate", "0.001", "--weights"]
    assert cli.main([*words, str(other)]) == 2
    assert f"weights {made / 'weights'} -> {other}; give --out" in capsys.readouterr().err
    assert cli.main(["predict", str(again), str(made / "photos")]) == 2
    assert "was not finished" in capsys.readouterr().err
    assert cli.main([*words, str(made / "weights")]) == 0
    assert json.loads((again / "run.json").read_text())["test"] == before["test"]


def test_a_moved_run_predicts_and_evaluates(made, run, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints"))
    files = [str(made / "photos" / "red"), str(made / "photos" / "blue" / "3.png")]
    assert cli.main(["predict", str(moved), *files, "--csv", str(tmp_path / "out.csv"), "--top", "1"]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) == 15
    assert all(": red (" in line for line in lines[:14])
    assert "3.png: blue (" in lines[14]
    with open(tmp_path / "out.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == ["red"] * 14 + ["blue"]
    np.testing.assert_allclose([float(row["red"]) + float(row["blue"]) for row in rows], 1, atol=1e-5)
    assert cli.main(["eval", str(moved), str(made / "photos")]) == 0
    assert "accuracy 100.0 % of 28" in capsys.readouterr().out


def test_a_folder_that_save_wrote_is_taken_as_a_run(made, run, tmp_path, capsys):
    loaded = jtl.load(run / "model")
    jtl.save(tmp_path / "saved", loaded, format="hf")
    assert cli.main(["predict", str(tmp_path / "saved"), str(made / "photos" / "red" / "0.png")]) == 0
    assert "0.png: red (" in capsys.readouterr().out


def test_a_run_is_weights_of_all_commands(made, run, tmp_path, capsys):
    found = []
    for i, weights in enumerate((run, run / "model")):
        out = tmp_path / f"{i}.npz"
        assert cli.main(["features", str(made / "photos" / "red"), "--weights", str(weights), "--out", str(out)]) == 0
        with np.load(out) as arrays:
            found.append(arrays["features"])
        capsys.readouterr()
        assert cli.main(["rank", str(made / "photos"), str(weights), "--per-class", "4"]) == 0
        found.append(float(capsys.readouterr().out.splitlines()[-1].split()[2]))
    np.testing.assert_array_equal(found[0], found[2])
    assert found[1] == found[3]


def test_a_test_split_alone_is_evaluated(made, run, tmp_path, capsys):
    shutil.copytree(made / "photos", tmp_path / "test")
    (tmp_path / "README.md").touch()
    assert cli.main(["eval", str(run), str(tmp_path)]) == 0
    assert "accuracy 100.0 % of 28" in capsys.readouterr().out
    shutil.copytree(made / "photos" / "red", tmp_path / "green")
    assert cli.main(["eval", str(run), str(tmp_path)]) == 2, "is test/ a class or a split?"
    assert "no folder train/" in capsys.readouterr().err


def test_an_export_lies_in_its_run_unless_a_folder_is_given(made, run, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoints"))
    assert cli.main(["export", str(moved), "--format", "jtl"]) == 0
    assert f"{moved / 'export-jtl'}: written for jtl" in capsys.readouterr().out
    ours, theirs = (jtl.flatten(jtl.load(place).variables.params) for place in (moved / "model", moved / "export-jtl"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert cli.main(["predict", str(moved), str(made / "photos" / "red" / "0.png")]) == 0


def test_an_exported_network_is_the_same_in_transformers(made, run, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    assert cli.main(["export", str(run), str(tmp_path / "hf"), "--format", "hf"]) == 0
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    loaded, x = jtl.load(run / "model"), np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    ours = loaded.network.apply(loaded.variables, x, train=False)[0].output
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).logits.numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert theirs.config.id2label == {0: "blue", 1: "red"}


def test_features_are_those_of_the_network(made, tmp_path):
    out = tmp_path / "f.npz"
    words = ["features", str(made / "photos"), "--weights", str(made / "weights"), "--out", str(out), "--size", "32"]
    assert cli.main(words) == 0
    with np.load(out) as found:
        assert found["features"].shape == (28, 16)
        assert found["inputs"][0].endswith("blue/0.png")
        assert np.isfinite(found["features"]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "nowhere", "--weights", "x"], "do not exist"),
        (["export", "nowhere", "out"], "does not exist"),
        (["export", ".", "out"], "is no run"),
        (["finetune", "nowhere", "--weights", "x", "--seed", "-1"], "seed=-1"),
        (["finetune", "nowhere", "--weights", "x", "--learning-rate", "inf"], "learning_rate=inf"),
        (["finetune", "nowhere", "--weights", "x", "--find-rate"], "find_rate with ways='head'"),
        (["finetune", "nowhere", "--weights", "x", "--patience", "2"], "jtl: patience=2 with ways='head'"),
        (["finetune", "nowhere", "--weights", "x", "--learning-rate", ".1"], "jtl: learning_rate=0.1 with ways='head'"),
        (["adapt", "a", "b", "--weights", "x", "--method", "mcc", "--weight", "0"], "jtl: weight=0.0: give"),
        (["adapt-few", "x", "--support", "y", "--seed", "-1"], "jtl: seed=-1: give 0 or more"),
    ],
)
def test_mistakes_are_told_without_a_traceback(words, message, capsys):
    assert cli.main(words) == 2
    found = capsys.readouterr()
    assert message in found.err + found.out
    assert "Traceback" not in found.err


def test_folded_statistics_are_recognised():
    stats = {"backbone": {"norm": {"mean": np.zeros(4), "var": np.full(4, 1 - 1e-5)}}}
    assert folded(jtl.Variables({}, stats))
    stats["backbone"]["norm"]["mean"][1] = 0.1
    assert not folded(jtl.Variables({}, stats))
    assert not folded(jtl.Variables({}, {}))


def test_settings_name_what_cannot_be(tmp_path):
    for name, value in (("size", 0), ("steps", 0), ("batch", -1), ("patience", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            Settings(tmp_path, "w", **{name: value})
    with pytest.raises(ValueError, match=r"steps=20 with ways='head'.*ways='last' or 'all'"):
        Settings(tmp_path, "w", steps=20)


def test_the_head_alone_is_what_is_trained():
    block = {"norm": {"scale": np.ones(2)}}
    tree = {"backbone": {"stem": block, "block1": block, "block2": block}, "head": {"out": {"bias": np.zeros(2)}}}
    variables = jtl.Variables(tree, {})
    assert trained_by("head", variables) == ("head/.*",)
    assert trained_by("last", variables) == ("head/.*", "backbone/block2/.*")
    assert trained_by("all", variables) == (".*",)
    plain = jtl.Variables({**tree, "backbone": {"stem": block}}, {})
    assert trained_by("head", plain) == ("head/.*",)
    with pytest.raises(ValueError, match="no numbered stages or blocks"):
        trained_by("last", plain)


@pytest.mark.slow
def test_ants_and_bees_reach_the_linear_probe(real_data, tmp_path, capsys):
    """A probe by scikit-learn on these features has 92.2 % of the 153 validation photos."""
    photos, weights = real_data("hymenoptera"), real_data("mobilenet_v2/mobilenet_v2_features.safetensors")
    assert cli.main(["finetune", str(photos), "--weights", str(weights), "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["validation"]["accuracy"] >= 0.92

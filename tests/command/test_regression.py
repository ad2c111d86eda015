"""`jtl finetune --task regression` from end to end: scikit-learn's ridge, units, checkpoints, resuming and export."""

import csv
import json
import re
import shutil

import jax
import made
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from PIL import Image

import jtl
from jtl import cli
from jtl.command import inference, number_head, passes, rank, source, sweep_commands, tune
from jtl.command.model import Inputs, pretrained
from jtl.command.number_labels import number_labels
from jtl.command.settings import Settings
from jtl.command.source import Examples, joined
from jtl.command.splits import folds, split
from jtl.command.tasks import TASKS
from jtl.command.unit import UNIT, in_units
from jtl.train import Checkpoints

WORDS = ["good", "bad", "film", "a", "the"]
TRAINED = {"task": "regression", "label": "shade", "file": "file", "ways": "all", "steps": 4, "batch": 8}
TRAINED |= {"learning_rate": 1e-5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos whose number is their brightness in a unit of its own, in a table, and a small network."""
    root, draw = tmp_path_factory.mktemp("regression"), np.random.default_rng(0)
    (root / "photos").mkdir()
    lines = []
    for i in range(40):
        shade = draw.uniform(20, 200)
        pixels = (shade + draw.uniform(0, 50, (8, 8, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{i}.png")
        lines.append(f"photos/{i}.png,{1000 + 3 * shade:.2f},{i % 4}")
    (root / "photos.csv").write_text("file,shade,prediction\n" + "\n".join(lines) + "\n")
    made.folder(root / "net", made.VIT)
    return root


def run(root, name, **settings):
    lines: list[str] = []
    given = Settings(root / "photos.csv", str(root / "net"), root / name, **settings)
    return tune.run(given, lines.append), lines


def converter(loaded):
    return Inputs(preprocessing=loaded.preprocessing)


@pytest.fixture(scope="module")
def head(world):
    return jtl.finetune_files(
        world / "photos.csv",
        world / "net",
        world / "head",
        task="regression",
        label="shade",
        file="file",
        say=lambda line: None,
    )


@pytest.fixture(scope="module")
def parts(world):
    return split(source.read(world / "photos.csv", label="shade", file="file", labels=number_labels), 0)


@pytest.fixture(scope="module")
def trained(world):
    return run(world, "all", **TRAINED)


def test_the_head_is_scikit_learns_ridge(world, head, parts):
    """Each validation prediction is of a head without its fold, and the saved head saw all training and validation."""
    of = pytest.importorskip("sklearn.linear_model")
    both, about = joined([parts["train"], parts["val"]]), json.loads((head.folder / "run.json").read_text())
    y, loaded = parts["train"].labels, jtl.load(head.folder / "model")
    np.testing.assert_allclose((about["centre"], about["scale"]), (y.mean(), y.std()), rtol=1e-12)
    how = converter(loaded)
    raw = passes.features(loaded, how)(both.items).astype(np.float64)
    size = raw.std(0) + 0.1 * raw.std(0).mean()
    size *= np.sqrt((((raw - raw.mean(0)) / size) ** 2).sum(1).mean())
    x, t, dealt = (raw - raw.mean(0)) / size, (both.labels - y.mean()) / y.std(), folds(both, 5, 0)
    found = {}
    for penalty in number_head.PENALTIES:
        found[penalty] = np.zeros(len(t))
        for fold in range(5):
            fitted = of.Ridge(penalty * (dealt != fold).sum()).fit(x[dealt != fold], t[dealt != fold])
            found[penalty][dealt == fold] = fitted.predict(x[dealt == fold])
    best = min(number_head.PENALTIES, key=lambda penalty: ((found[penalty] - t) ** 2).mean())
    assert about["head"].startswith(f"its penalty {best:g} was chosen by 5 folds of 34 examples")
    np.testing.assert_allclose(head.validation.predicted, found[best] * y.std() + y.mean(), rtol=1e-6)
    theirs = of.Ridge(best * len(t)).fit(x, t)
    out = loaded.variables.params["head"]["out"]
    np.testing.assert_allclose(out["kernel"][:, 0] * size, theirs.coef_ * y.std(), rtol=1e-4, atol=1e-3)
    outputs = passes.logits(loaded, how)(both.items)[:, 0]
    np.testing.assert_allclose(outputs, theirs.predict(x) * y.std() + y.mean(), rtol=1e-4)


def test_one_decomposition_gives_the_ridge_of_every_penalty():
    of = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(0)
    for width in (5, 30):  # fewer features than examples, and more
        x, t, held = draw.normal(size=(20, width)), draw.normal(size=20), draw.normal(size=(7, width))
        found = number_head.predictions(x, t, held, (1e-4, 1.0))
        expected = [of.Ridge(20 * penalty).fit(x, t).predict(held) for penalty in (1e-4, 1.0)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_predict_eval_report_and_run_have_the_same_numbers(head, parts, tmp_path, capsys):
    test, items = head.test, parts["test"].items
    lines = ["file,shade", *(f"{item},{y}" for item, y in zip(items, test.labels, strict=True))]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    about = json.loads((head.folder / "run.json").read_text())
    assert about["settings"]["task"] == "regression"
    assert about["test"]["rmse"] == test.rmse < 0.5 * test.baseline.rmse, "brightness is nearly a linear feature"
    assert cli.main(["eval", str(head.folder), str(tmp_path / "test.csv")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{test.told}\nRMSE: {test.rmse:.4g}, by the training mean {test.baseline.rmse:.4g}\n")
    assert "Spearman's correlation: " in said
    assert cli.main(["predict", str(head.folder), str(tmp_path / "test.csv"), "--csv", str(tmp_path / "out.csv")]) == 0
    assert capsys.readouterr().out.count(": shade 1") == len(items)
    with open(tmp_path / "out.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["input", "shade", "prediction"]
    np.testing.assert_allclose([float(row["prediction"]) for row in rows], test.predicted, rtol=1e-6)
    np.testing.assert_allclose([one["shade"] for one in head.predict(items)], test.predicted, rtol=1e-6)
    page = (head.folder / "report.html").read_text()
    for word in (
        f"RMSE {test.rmse:.4g}",
        f"{test.baseline.rmse:.4g}",
        "Largest errors",
        "head/out/kernel",
        "Kept: head",
    ):
        assert word in page
    assert page.count("<img") == 1 + 2 * len(items)
    assert "Confusion" not in page
    assert "precision" not in page


def test_a_column_of_the_tables_own_predictions_keeps_its_cells(world, head, tmp_path):
    assert cli.main(["predict", str(head.folder), str(world / "photos.csv"), "--csv", str(tmp_path / "o.csv")]) == 0
    with open(tmp_path / "o.csv", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["input", "shade", "column prediction", "prediction"]


def test_the_lowest_validation_error_is_kept(trained):
    tuned, lines = trained
    (told,) = (line for line in lines if line.startswith("validation rmse"))
    scores = {name: float(value) for value, name in re.findall(r"([\d.]+) of ([^,;]+)", told)}
    assert scores.keys() == {"head", "all", "the mean of all and head"}
    assert scores[tuned.chosen] == min(scores.values())
    assert {"rmse", "mae", "r2", "loss"} <= tuned.history[0].keys()


def test_checkpoints_predict_in_the_unit_of_the_labels(world, trained):
    """They hold a head that learns scaled numbers."""
    tuned, about = trained[0], json.loads((trained[0].folder / "run.json").read_text())
    files = [str(world / "photos" / f"{i}.png") for i in range(4)]
    found = inference.predict(tuned.folder / "checkpoints", files).values
    raw = jtl.load(tuned.folder / "checkpoints")
    best = Checkpoints(tuned.folder / "checkpoints").variables(step="best")
    how = converter(tuned.loaded)
    outputs = passes.logits(raw._replace(variables=best), how)(files)
    np.testing.assert_allclose(found, outputs * about["scale"] + about["centre"], rtol=1e-5)
    assert np.abs(outputs).max() < 5
    assert raw.config.extra["jtl_target"] == {"centre": about["centre"], "scale": about["scale"]}
    assert "jtl_target" not in tuned.loaded.config.extra


def test_a_killed_run_is_resumed_and_another_is_refused(world, trained, tmp_path):
    again = shutil.copytree(trained[0].folder, tmp_path / "all")
    (again / "run.json").unlink()
    shutil.rmtree(again / "model")
    given = Settings(world / "photos.csv", str(world / "net"), again, **TRAINED)
    resumed = tune.run(given, lambda line: None)
    np.testing.assert_array_equal(resumed.test.predicted, trained[0].test.predicted)
    assert resumed.history == trained[0].history
    other = Settings(world / "photos.csv", str(world / "net"), again, **{**TRAINED, "task": "classification"})
    with pytest.raises(ValueError, match="task regression -> classification"):
        tune.run(other, lambda line: None)


def test_transformers_predicts_the_same_numbers(world, head, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    assert cli.main(["export", str(head.folder), str(tmp_path / "hf")]) == 0
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    assert (theirs.config.problem_type, theirs.config.num_labels) == ("regression", 1)
    assert theirs.config.id2label == {0: "shade"}
    files = [world / "photos" / f"{i}.png" for i in range(5)]
    x = converter(jtl.load(head.folder / "model")).read(files)
    with torch.no_grad():
        found = theirs(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).logits.numpy()[:, 0]
    ours = [one["shade"] for one in head.predict(files)]
    np.testing.assert_allclose(found, ours, atol=float(1e-3 * np.std(ours)))
    assert cli.main(["predict", str(tmp_path / "hf"), str(files[0])]) == 0


def test_given_validation_texts_choose_and_training_texts_alone_are_the_unit(tmp_path):
    """The other splits have far larger numbers, which no scale may see."""
    of, draw = pytest.importorskip("sklearn.linear_model"), np.random.default_rng(1)
    made.of_texts(tmp_path / "net", WORDS)
    (tmp_path / "data").mkdir()
    for part, count, more in (("train", 30, 0), ("val", 8, 100), ("test", 8, 100)):
        rows = ["text,stars"]
        for i in range(count):
            words = [WORDS[k] for k in draw.integers(0, 5, 6)]
            rows.append(f"{' '.join(words)} {part}{i},{words.count('good') - words.count('bad') + more + 0.01 * i:.2f}")
        (tmp_path / "data" / f"{part}.csv").write_text("\n".join(rows) + "\n")
    given = Settings(tmp_path / "data", str(tmp_path / "net"), tmp_path / "run", task="regression", label="stars")
    tuned = tune.run(given, lambda line: None)
    y, about = tuned.splits["train"].labels, json.loads((tmp_path / "run" / "run.json").read_text())
    np.testing.assert_allclose((about["centre"], about["scale"]), (y.mean(), y.std()), rtol=1e-12)
    assert tuned.head is None
    assert tuned.judged == "validation examples, by which this network was chosen"
    how = Inputs(tokens=jtl.preprocess.text.tokenizer(str(tmp_path / "run" / "model"), length=16))
    raw = {
        part: passes.features(tuned.loaded, how)(tuned.splits[part].items).astype(float) for part in ("train", "val")
    }
    size = raw["train"].std(0) + 0.1 * raw["train"].std(0).mean()
    size *= np.sqrt((((raw["train"] - raw["train"].mean(0)) / size) ** 2).sum(1).mean())
    fits = [of.Ridge(30 * p).fit(raw["train"] / size, y) for p in number_head.PENALTIES]
    values = [fit.predict(raw["val"] / size) for fit in fits]
    best = min(values, key=lambda value: ((value - tuned.splits["val"].labels) ** 2).mean())
    np.testing.assert_allclose(tuned.validation.predicted, best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["1", "2"] * 6, ["--balanced"], "balanced=True with task='regression': numbers have no classes"),
        (["good", "bad"] * 6, [], "line 2 of '.*' and 11 more have the 'label' 'good', which is no number"),
        (["4"] * 12, [], "all 8 training examples have the 'label' 4: there is nothing to learn"),
        ([f"{10**7 + i}" for i in range(12)], [], "differ by about .*, which float32 cannot tell apart"),
    ],
)
def test_what_cannot_be_learned_is_named(tmp_path, labels, options, message, capsys):
    lines = [f"text {i},{label}" for i, label in enumerate(labels)]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    words = ["finetune", str(tmp_path / "t.csv"), "--weights", "w", "--task", "regression", *options]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_numbers_have_no_top_classes_and_an_unknown_task_is_named(world, head, capsys):
    assert cli.main(["predict", str(head.folder), str(world / "photos" / "0.png"), "--top", "2"]) == 2
    assert "--top 2: the network predicts one number for each example" in capsys.readouterr().err
    with pytest.raises((ValueError, TypeCheckError), match=r"'classification'.* 'regression'"):
        Settings(world, "w", task="ranking")  # pyright: ignore[reportArgumentType]


def test_a_network_without_a_bias_in_its_head_is_refused(world):
    loaded = jtl.load(world / "net", classes=("shade",), reinit=("head/.*",))
    loaded.variables.params["head"]["out"].pop("bias")
    with pytest.raises(ValueError, match="with a vit: its head is not one linear layer with a bias"):
        TASKS["regression"].plan(Settings(world, "w", task="regression"), _numbers(np.arange(4.0))).prepared(loaded)


@pytest.mark.parametrize("given", [{"centre": 1.0}, {"centre": 0.0, "scale": 0.0}, {"centre": "x", "scale": 1.0}, 3])
def test_a_unit_that_cannot_be_is_named(world, given):
    """As in a damaged description of checkpoints."""
    loaded = jtl.load(world / "net", classes=("shade",), reinit=("head/.*",))
    loaded = loaded._replace(config=loaded.config.replace(extra={UNIT: given}))
    with pytest.raises(ValueError, match=r"jtl_target=.*: give a finite centre and a positive scale"):
        in_units(loaded)


def _numbers(labels):
    return Examples("texts", tuple(map(str, labels)), labels, ("shade",))


def test_a_run_of_numbers_as_weights_of_classes_is_forgotten(head):
    key = jax.random.key(0)
    other = pretrained(str(head.folder / "model"), ("a", "b"), arch=None, kind="images", key=key)
    assert "problem_type" not in other.config.extra
    assert jtl.load(head.folder / "model").config.extra["problem_type"] == "regression"
    assert rank._loaded(str(head.folder / "model"), "images", None, "")[1].startswith("its head predicts one number")


def test_a_sweep_ranks_by_the_error(world, tmp_path):
    words = ["finetune", str(world / "photos.csv"), "--weights", str(world / "net"), "--label", "shade"]
    words += ["--file", "file", "--task", "regression"]
    assert sweep_commands.ranking(words, ["seed=0,1"], None) == "validation RMSE"
    with pytest.raises(ValueError, match=r"the runs have the numbers \['test RMSE', 'validation RMSE'\]"):
        sweep_commands.ranking(words, ["seed=0,1"], "validation accuracy")
    numbers = sweep_commands.execute(lambda words: None)([*words, "--out", str(tmp_path / "run")])
    assert tuple(numbers) == sweep_commands.ERRORS

"""The head of `jtl finetune`: folds of whole groups, scikit-learn's penalty, and which examples it is fitted on."""

import json

import jax
import made
import numpy as np
import pytest
from PIL import Image

from jtl import heads
from jtl.command import class_task, head, passes, tune
from jtl.command.model import Inputs
from jtl.command.settings import Settings
from jtl.command.source import Examples, joined
from jtl.command.splits import folds
from jtl.methods.finetune.cross_validation import standard_sizes
from jtl.model import Variables
from jtl.params import flatten
from jtl.pretrained.load import load
from jtl.train import Checkpoints

pytestmark = pytest.mark.whole

PENALTIES = (1e-4, 1e-3, 1e-2)
NAMES = ("blue", "green", "red")


def photos(root, parts, seed=0):
    """Noise, faintly of a colour; parts are folders and how many photos of each class."""
    draw = np.random.default_rng(seed)
    for part, count in parts.items():
        for name, channel in zip(NAMES, (2, 1, 0), strict=True):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 200, (8, 8, 3))
                pixels[..., channel] += 20
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


def run(root, weights, name="run", **settings):
    return tune.run(Settings(root, str(weights), root.parent / name, **settings), lambda line: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("head")
    return made.folder(root / "net", made.VIT), photos(root / "photos", {"train": 16, "test": 4})


@pytest.fixture(scope="module")
def tuned(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "STANDARDISED", PENALTIES)
        return run(world[1], world[0])


def examples(items, labels, groups=None):
    return Examples("texts", tuple(items), np.array(labels, np.int32), ("a", "b", "c"), groups)


def test_folds_deal_each_class_and_keep_equal_examples_together():
    labels = np.repeat([0, 1, 2], [11, 7, 2])
    dealt = folds(examples([f"text {i}" for i in range(20)], labels), 5, 0)
    assert np.ptp(np.bincount(dealt, minlength=5)) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(dealt[labels == label], minlength=5)) <= 1
    twice = folds(examples([f"text {i // 2}" for i in range(20)], np.repeat([0, 1], 10)), 5, 0)
    np.testing.assert_array_equal(twice[::2], twice[1::2])
    assert sorted(np.bincount(twice)) == [4] * 5
    assert not np.array_equal(dealt, folds(examples([f"text {i}" for i in range(20)], labels), 5, 1))


def test_folds_keep_groups_whole_and_are_fewer_where_there_are_fewer():
    groups = tuple(["ann", "ben", "carl"][i % 3] for i in range(18))
    dealt = folds(examples(map(str, range(18)), np.arange(18) % 2, groups), 5, 0)
    assert sorted(dealt[:3]) == [0, 1, 2]
    np.testing.assert_array_equal(dealt, np.tile(dealt[:3], 6))
    with pytest.raises(ValueError, match="18 examples are all equal, or of one group"):
        folds(examples(map(str, range(18)), np.arange(18) % 2, ("ann",) * 18), 5, 0)


def test_the_head_is_scikit_learns_on_all_training_and_validation_photos(tuned):
    """So it saw each of these, and none of the test photos."""
    of, metrics = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.metrics")
    both = joined([tuned.splits["train"], tuned.splits["val"]])
    assert len(both) == 48
    raw = passes.features(tuned.loaded, Inputs(preprocessing=tuned.loaded.preprocessing))(both.items).astype(np.float64)
    size = raw.std(0) + 0.1 * raw.std(0).mean()
    size *= np.sqrt((((raw - raw.mean(0)) / size) ** 2).sum(1).mean())
    x = (raw - raw.mean(0)) / size
    y, dealt, shares = both.labels, folds(both, head.FOLDS, 0), {}

    def fit(rows, penalty):
        return of.LogisticRegression(C=1 / (penalty * rows.sum()), tol=1e-8, max_iter=5000).fit(x[rows], y[rows])

    for penalty in PENALTIES:
        shares[penalty] = np.zeros((48, 3))
        for fold in range(5):
            shares[penalty][dealt == fold] = fit(dealt != fold, penalty).predict_proba(x[dealt == fold])
    best = min(PENALTIES, key=lambda penalty: metrics.log_loss(y, shares[penalty]))
    assert tuned.head.penalty == best
    np.testing.assert_allclose(tuned.validation.shares, shares[best], atol=1e-3)
    out = tuned.loaded.variables.params["head"]["out"]
    theirs = fit(np.ones(48, bool), best)
    np.testing.assert_allclose(out["kernel"] * size[:, None], theirs.coef_.T, atol=5e-3)


def test_the_run_says_what_the_head_was_fitted_on(world, tuned):
    about = json.loads((tuned.folder / "run.json").read_text())
    assert about["head"] == tuned.head.told
    assert about["head"].endswith("was chosen by 5 folds of 48 examples, and it was fitted again on all of them")
    assert about["validation"]["examples"].startswith("training and validation examples, each by a head")
    assert np.sum(about["validation"]["confusion"]) == 48


def test_validation_photos_that_are_given_choose_and_are_not_fitted_on(world, tmp_path):
    root = photos(tmp_path / "photos", {"train": 6, "val": 3, "test": 3})
    found = run(root, world[0])
    assert found.head is None
    assert found.judged == "validation examples, by which this network was chosen"
    assert len(found.validation.labels) == 9
    assert json.loads((found.folder / "run.json").read_text())["head"] is None


def test_training_photos_of_one_group_have_no_folds(world, tmp_path):
    """Three groups are one for each split, so the photos of the second choose the penalty."""
    found = run(photos(tmp_path / "photos", {"": 3}), world[0], group=r"(\d)")
    assert {len(set(part.groups or ())) for part in found.splits.values()} == {1}
    assert found.head is None
    assert len(found.validation.labels) == 3


@pytest.mark.slow
@pytest.mark.compiling
@pytest.mark.parametrize("kept", ["head", "the mean of all and head"])
def test_the_best_of_head_steps_and_their_mean_is_kept(world, monkeypatch, kept):
    """Steps are judged by photos that their head was not fitted on; a head that is kept is fitted on these too."""
    fitted, names = [], iter(["head", "all", "the mean of all and head"])

    def crossed(*given, original=class_task.crossed_head, **options):
        fitted.append(original(*given, **options))
        return fitted[-1]

    monkeypatch.setattr(class_task, "crossed_head", crossed)
    monkeypatch.setattr(tune, "evaluate", lambda *given, **_: {"accuracy": 0.5, class_task.RANK: next(names) == kept})
    found = run(world[1], world[0], kept[-8:], ways="all", steps=1, batch=8)
    assert found.chosen == kept
    assert [len(one.examples) for one in fitted] == ([42, 48] if kept == "head" else [42])
    assert len(found.validation.labels) == (48 if kept == "head" else 6)
    start, best = fitted[0].variables, Checkpoints(found.folder / "checkpoints").variables(step="best")
    expected = {p: (w + flatten(best.params)[p]) / 2 for p, w in flatten(start.params).items()}
    if kept == "head":
        expected = flatten(fitted[1].variables.params)
    for path, w in flatten(found.loaded.variables.params).items():
        np.testing.assert_allclose(w, expected[path], atol=1e-6)
    assert np.abs(flatten(best.params)["head/out/kernel"] - start.params["head"]["out"]["kernel"]).max() > 1e-6


def test_of_equal_accuracies_the_lower_loss_is_better():
    y = np.array([0, 1, 1])
    unsure, sure = np.array([[1.0, 0], [0, 1], [1, 0]]), np.array([[3.0, 0], [0, 3], [1, 0]])
    right = np.array([[0.01, 0], [0, 0.01], [0, 0.01]])
    ranks = [float(class_task.ranked(z, y).mean()) for z in (unsure, sure, right)]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("model", [heads.averaged(3), heads.linear(3, bias=False)], ids=["deit", "gpt2"])
def test_the_fitted_head_has_the_form_of_the_networks(world, model):
    """A distilled DeiT has two maps, and GPT-2 and Llama one without a bias: their runs ended in an error."""
    of = pytest.importorskip("sklearn.linear_model")
    x, y = made.blobs(30, 6)
    params = {"head": model.init(jax.random.key(0), x).params}
    loaded = load(world[0])._replace(variables=Variables(params, {}), head=model)
    given = examples(map(str, range(30)), y)
    found = head.crossed_head(loaded, x, given, 0)
    assert flatten(found.variables.params).keys() == flatten(params).keys()
    z = model.apply(Variables(found.variables.params["head"], {}), x, train=False)[0]
    bias = "distilled" in params["head"]
    size = standard_sizes(x)[0]
    theirs = of.LogisticRegression(C=1 / (found.penalty * 30), fit_intercept=bias, tol=1e-8, max_iter=5000)
    np.testing.assert_allclose(z, theirs.fit(x / size, y).decision_function(x / size), atol=1e-2)
    by = head.head_by(loaded, {"train": x, "val": x}, {"train": given, "val": given})
    assert flatten(by.params).keys() == flatten(params).keys()

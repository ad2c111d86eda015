"""The three forms: what each leaves alone to the bit, what each is at λ = 0, and the recipe on tiny random domains."""

from dataclasses import dataclass, replace

import jax
import numpy as np
import optax
import pytest
from nets import dense, largest_difference, normed, top

from jtl import cli
from jtl.backbones import mlp
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.model import Model
from jtl.networks import network
from jtl.recipes import adaptation
from jtl.recipes.parts import forms
from jtl.recipes.parts.runs import TrainRun
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.state import variables
from jtl.train.step import make_step

PLAIN = network(backbone=dense(6), head=top(3))
NORMED = network(backbone=normed(6), head=top(3))
STEPS = 4
same = np.testing.assert_array_equal


@pytest.fixture(scope="module")
def rows():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(12, 5)).astype(np.float32)
    return {"source": {"x": x, "y": np.arange(12) % 3}, "target": {"x": 2 * x[:8] + 1}}


def states(plan, rows, start, steps):
    """The states before the first step and after each."""
    step = make_step(plan.turns, [optax.sgd(0.3)] * len(plan.groups), trainable=plan.groups)
    updates = {first: jax.jit(update) for first, update in step.phases}
    found = [step.init(start, jax.random.key(1))]
    for i in range(steps):
        update = updates[max(first for first in updates if first <= i)]
        found.append(update(found[-1], rows)[0])
    return found


def test_joint_without_weight_is_the_update_of_finetune(key, rows):
    start = forms.joint(PLAIN, STEPS, 0.0).init(key, rows)
    step = make_step(finetune(PLAIN), optax.sgd(0.3))
    alone, update = step.init(start, jax.random.key(1)), jax.jit(step)
    for _ in range(3):
        alone, _ = update(alone, rows["source"])
    without, weighed = (states(forms.joint(PLAIN, STEPS, w), rows, start, 3)[-1] for w in (0.0, 5.0))
    assert largest_difference(without.params, alone.params) < 1e-6
    assert largest_difference(weighed.params, alone.params) > 1e-3


def test_the_classifier_leaves_the_generator_to_the_bit(key, rows):
    plan, last = forms.alternated(NORMED, STEPS, 1.0), forms.classifier_begins(STEPS)
    assert 0 < last < STEPS
    begin, *_, before, after = states(plan, rows, plan.init(key, rows), STEPS)
    for name in ("backbone", "critic"):
        assert largest_difference(begin.params[name], before.params[name]) > 1e-3, "the first phase moves it"
        jax.tree.map(same, before.params[name], after.params[name])
    jax.tree.map(same, before.stats, after.stats)
    assert largest_difference(begin.stats, before.stats) > 1e-3
    assert largest_difference(before.params["head"], after.params["head"]) > 1e-3


def test_the_encoder_of_the_target_moves_and_the_source_s_network_stays(key, rows):
    trained = states(forms.alone(NORMED), rows, NORMED.init(key, rows["source"]["x"]), 2)[-1]
    plan = forms.mapped(NORMED)
    start = plan.init(key, rows, variables(trained))
    after = states(plan, rows, start, 2)[-1]
    assert largest_difference(after.params["backbone"], trained.params["backbone"]) > 1e-3
    jax.tree.map(same, after.params["head"], trained.params["head"])
    encoder = {"params": trained.params["backbone"], "stats": trained.stats["backbone"]}
    jax.tree.map(same, after.stats["source_encoder"], encoder)


def test_no_row_of_the_target_reaches_the_baseline(key, rows):
    """Rows of NaN in the target would reach BatchNorm's statistics and every gradient."""
    bad = {**rows, "target": {"x": np.full((8, 5), np.nan, np.float32)}}
    start = NORMED.init(key, rows["source"]["x"])
    clean, dirty = (states(forms.alone(NORMED), given, start, 2)[-1] for given in (rows, bad))
    jax.tree.map(same, (clean.params, clean.stats), (dirty.params, dirty.stats))


def test_coral_s_classifier_is_that_of_numpy_and_scikit_learn():
    """The target is the source turned and stretched. The map's formula by hand: powers from eigenvalues of C + I."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(90, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    target = (x[::2] @ np.array([[2.0, 0.3, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.7]]) + 3).astype(np.float32)
    x[:, 2], target[:, 2] = 4.0, 1.0  # a feature that never fires has no deviation
    rows, logits = forms.coral_classifier(x, y, target, {"target": target}, 3)["target"]

    def standard(a):
        return np.stack([(c - c.mean()) / (c.std() if c.std() else 1.0) for c in a.astype(np.float64).T], 1)

    def root(a, sign):
        values, vectors = np.linalg.eigh(np.cov(a.T) + np.eye(3))
        return vectors @ np.diag(values ** (sign / 2)) @ vectors.T

    here, there = standard(x), standard(target)
    mapped = here @ root(here, -1) @ root(there, 1)
    fitted = sklearn.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(mapped, y)
    np.testing.assert_allclose(rows, there, atol=1e-5)
    shares = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(shares, fitted.predict_proba(there), atol=1e-3)


@dataclass(frozen=True)
class Tiny(adaptation.Recipe):
    backbone: Model = mlp((8,))
    stage: TrainRun = TrainRun(steps=4, batch=8, learning_rate=1e-2)

    def domains(self):
        draw = np.random.default_rng(0)
        x = draw.normal(size=(40, 16, 16, 1)).astype(np.float32)
        y = (np.arange(40) % 10).astype(np.int32)
        return adaptation.Domains((x[:16], y[:16]), x[16:32], (x[32:], y[32:]))


@pytest.mark.slow
@pytest.mark.compiling
def test_the_recipe_trains_each_form_beside_one_baseline(tmp_path, capsys):
    recipe = Tiny(out=tmp_path)
    found = recipe.train()
    printed, failed = capsys.readouterr().out, found.pop("failed")
    ways = [adaptation.ALONE, *adaptation.FORMS, "mapping, CORAL"]
    assert list(found) == ways
    (x, y), net = recipe.domains().test, recipe.network().net
    for name in ways[:-1]:
        end = Checkpoints(tmp_path / name / "checkpoints").variables()
        assert found[name]["accuracy"] == pytest.approx(np.mean(np.asarray(predictor(net)(end, x)).argmax(1) == y))
    best = max(found, key=lambda name: found[name]["clustering"])
    worse = found[best]["accuracy"] <= found[ways[0]]["accuracy"]
    assert len(failed) == (best != ways[0] and worse)
    assert f"of the highest class clustering: {best}\n" in printed
    again = replace(recipe, form="joint").train()  # both runs are done, so their checkpoints are the result
    capsys.readouterr()
    assert list(again) == ["failed", adaptation.ALONE, "joint"]
    assert again["joint"] == found["joint"]
    assert again[adaptation.ALONE] == found[adaptation.ALONE]


@pytest.mark.slow
@pytest.mark.compiling
def test_a_form_runs_from_the_command_line(real_data, tmp_path, capsys):
    root = real_data("usps.npz").parent
    small = ["--stage.steps", "2", "--stage.batch", "8", "--data", str(root), "--out", str(tmp_path)]
    assert cli.main(["train", "adaptation", "--form", "mapping", *small]) in (0, 1), "two steps decide nothing"
    printed = capsys.readouterr().out
    for way in ("source only", "mapping, CORAL"):
        assert way in printed
    assert cli.main(["eval", str(tmp_path / "mapping" / "checkpoints")]) == 0
    assert "accuracy 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"form": "mapping", "weight": 0.5}, "weight=0.5: the form 'mapping' has no λ"),
        ({"weight": -1.0}, "weight=-1.0: give a finite number"),
        ({"stage": TrainRun(1, 8, 1e-3)}, "stage.steps=1: two or more"),
    ],
)
def test_what_a_form_cannot_take_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        adaptation.Recipe(**given)

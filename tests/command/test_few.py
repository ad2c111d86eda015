"""`jtl adapt-few` from end to end."""

import json
from typing import Any

import jax
import numpy as np
import optax
import pytest
from PIL import Image

import jtl
from jtl import cli
from jtl.command import few, source
from jtl.command.few_settings import FewShot
from jtl.command.model import Inputs, inputs_of, pretrained

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    root, draw = tmp_path_factory.mktemp("few"), np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        for part in ("support", "rest"):
            (root / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = draw.integers(0, 90, (32, 32, 3))
                pixels[..., channel] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i}.png")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(root / "weights")
    return root


def _words(made, out, *more):
    words = ["adapt-few", str(made / "weights"), "--support", str(made / "support"), "--out", str(out)]
    return [*words, "--size", "32", *more]


@pytest.mark.parametrize("steps", [0, 2])
def test_classes_are_learned_and_predicted(made, tmp_path, capsys, steps):
    out = tmp_path / "run"
    more = ["--steps", str(steps), "--query", str(made / "rest" / "red")]
    assert cli.main(_words(made, out, *more)) == 0
    assert "each example predicted from the others: 6 of 6 are right" in capsys.readouterr().out
    assert json.loads((out / "run.json").read_text())["held_out"] == {"right": 6, "of": 6}
    page = (out / "report.html").read_text()
    assert page.count("<img") == 6 + 3
    assert page.count("red (") >= 3
    assert cli.main(["predict", str(out), str(made / "rest"), "--top", "1"]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    assert ["/red/" in line for line in lines] == [": red (" in line for line in lines] == [False] * 3 + [True] * 3
    kernel = jtl.load(out / "model").variables.params["backbone"]
    first = jtl.load(made / "weights").variables.params["backbone"]
    same = jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), kernel, first))
    assert same == (steps == 0)


def test_harm_of_steps_is_told():
    assert few.told(9, 7, 10).endswith(
        "9 right without the steps and 7 with: the steps do harm here; run again without --steps"
    )
    assert "nothing shows that the steps help" in few.told(9, 9, 10)
    assert few.told(7, 9, 10).endswith("7 right without the steps and 9 with")


def test_steps_that_destroy_the_features_are_told(made, tmp_path, monkeypatch, capsys):
    """With a tuning that sets all weights to zero, every image has the same features, and is of the first class."""
    seen: list[list[bool]] = []

    def destroyed(settings, loaded, inputs, support, scale, key):
        def on(mask):
            seen.append(mask.tolist())
            return loaded.variables._replace(params=jax.tree.map(lambda a: 0 * a, loaded.variables.params))

        return on

    monkeypatch.setattr(few, "_tuner", destroyed)
    assert cli.main(_words(made, tmp_path / "run", "--steps", "2")) == 0
    alternate = [i % 3 != 1 for i in range(6)]
    assert seen == [[not kept for kept in alternate], alternate, [True] * 6], "each half alone, then all examples"
    found = json.loads((tmp_path / "run" / "run.json").read_text())["halves"]
    assert found == {"without": 6, "with_steps": 3, "of": 6}
    assert "the steps do harm here" in capsys.readouterr().out
    assert "the steps do harm here" in (tmp_path / "run" / "report.html").read_text()


def test_fine_tuning_sees_the_half_alone(made):
    """Images that the mask leaves out, NaN here, change nothing: not the weights, to the bit."""
    weights, support = str(made / "weights"), source.read(made / "support", text="text", label="label")["all"]
    loaded = pretrained(weights, support.classes, arch=None, kind="images", key=jax.random.key(0), size=32)
    inputs, loaded = inputs_of(loaded, weights, "images", support.items, 32)
    settings = FewShot(weights, made / "support", steps=1)
    known = np.arange(6) % 3 != 1

    class Without(Inputs):
        def read(self, items, *, margin=1.0):
            x = np.array(super().read(items, margin=margin))
            x[~known] = np.nan
            return x

    ways, key = (inputs, Without(preprocessing=inputs.preprocessing)), jax.random.key(1)
    found, other = (few._tuner(settings, loaded, how, support, 5.0, key)(known) for how in ways)
    jax.tree.map(np.testing.assert_array_equal, found.params["backbone"], other.params["backbone"])
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), found.params["backbone"], loaded.variables.params["backbone"]
    )
    assert max(jax.tree.leaves(moved)) > 0


def test_a_run_is_a_start_and_another_run_is_not_replaced(made, tmp_path, capsys):
    assert cli.main(_words(made, tmp_path / "run")) == 0
    again = ["adapt-few", str(tmp_path / "run"), "--support", str(made / "rest"), "--out", str(tmp_path / "next")]
    assert cli.main(again) == 0
    assert cli.main(_words(made, tmp_path / "run", "--steps", "1")) == 2
    assert "steps 0 -> 1" in capsys.readouterr().err
    other = ["finetune", str(made / "support"), "--weights", "x", "--out", str(tmp_path / "run")]
    assert cli.main(other) == 2
    assert "a run of another command" in capsys.readouterr().err


def test_a_finetuned_network_is_a_start(made, tmp_path, capsys):
    """Its backbone is the one of the run, and the classes are those of the new support set."""
    run, out = tmp_path / "tuned", tmp_path / "few"
    words = ["finetune", str(made / "support"), "--weights", str(made / "weights"), "--out", str(run), "--size", "32"]
    assert cli.main([*words, "--ways", "all", "--steps", "2", "--batch", "4"]) == 0
    other = tmp_path / "pairs"
    other.mkdir()
    for name, held in (("cold", "blue"), ("warm", "red")):
        (other / name).symlink_to(made / "rest" / held)
    assert cli.main(["adapt-few", str(run), "--support", str(other), "--out", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["predict", str(out), str(made / "support" / "red"), "--top", "1"]) == 0
    assert capsys.readouterr().out.count(": warm (") == 3
    tuned, few_shot = (jtl.load(folder / "model").variables.params["backbone"] for folder in (run, out))
    jax.tree.map(np.testing.assert_array_equal, tuned, few_shot)


def test_a_recipes_run_is_refused_with_what_would_do(made, tmp_path, capsys):
    """The checkpoints of meta-training, by their folder and by that of the run."""
    net = jtl.network(backbone=jtl.backbones.mlp((4,)), head=jtl.heads.linear(2))
    objective = jtl.maml(jtl.finetune(net), jtl.fixed_rate(0.1), steps=1)
    tasks = jtl.data.episodes(np.ones((3, 4, 5), np.float32), way=2, shot=1, query=1, tasks=2)
    step = jtl.make_step(objective, optax.sgd(0.1))
    state = step.init(objective.init(jax.random.key(0), tasks[0]), jax.random.key(1))
    saver = jtl.Checkpoints(tmp_path / "run" / "checkpoints", recipe="jtl train omniglot_maml")
    jtl.fit(step, state, tasks, steps=1, checkpoints=saver, mesh=jtl.mesh(devices=jax.devices()[:1]), progress=False)
    for place in ("run", "run/checkpoints"):
        words = ["adapt-few", str(tmp_path / place), "--support", str(made / "support"), "--out", str(tmp_path / "x")]
        assert cli.main(words) == 2
        told = capsys.readouterr().err
        assert "checkpoints' holds checkpoints that do not say their network" in told
        assert "jtl.learners.learner" in told
    found = jtl.Checkpoints(tmp_path / "run" / "checkpoints").variables()  # what the message says to do
    learn = jtl.learners.learner(net, jtl.adapt_to(jtl.finetune(net), jtl.fixed_rate(0.1), steps=1), found)
    assert learn({"x": np.eye(2, 5), "y": np.arange(2)})(np.eye(2, 5)).shape == (2, 2)


def _copied(made, root, count):
    """A support set with the first photo of each class `count` times, under names of their own."""
    for name in ("blue", "red"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes((made / "support" / name / "0.png").read_bytes())
    return root


def test_copies_of_one_photo_are_no_examples_to_judge_by(made, tmp_path, capsys):
    """Two copies a class said that 4 of 4 are right, and chose a temperature by that."""
    kernels = {}
    for count in (1, 2):
        out, root = tmp_path / f"run{count}", _copied(made, tmp_path / f"photos{count}", count)
        assert cli.main([*_words(made, out), "--support", str(root)]) == 0
        said, found = capsys.readouterr().out, json.loads((out / "run.json").read_text())
        assert found["held_out"] == {"right": 0, "of": 0}
        assert "2 classes, 1 examples of each" in said
        assert "note: one example a class" in said
        assert ("2 of 4 are copies of others, as " in said) == (count == 2)
        assert ("alone in its class but for copies" in (out / "report.html").read_text()) == (count == 2)
        kernels[count] = np.asarray(jtl.load(out / "model").variables.params["head"]["out"]["kernel"])
    np.testing.assert_allclose(kernels[2], kernels[1], rtol=1e-5)


def test_halves_judge_distinct_photos(made, tmp_path, capsys):
    root = tmp_path / "photos"
    for name in ("blue", "red"):
        (root / name).mkdir(parents=True)
        for i, source_of in enumerate("0011"):
            (root / name / f"{i}.png").write_bytes((made / "support" / name / f"{source_of}.png").read_bytes())
    assert cli.main([*_words(made, tmp_path / "run", "--steps", "1"), "--support", str(root)]) == 0
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert found["held_out"]["of"] == found["halves"]["of"] == 4
    assert "4 of 8 are copies of others" in capsys.readouterr().out


def test_a_photo_in_two_classes_is_refused(made, tmp_path, capsys):
    root = _copied(made, tmp_path / "photos", 1)
    (root / "red" / "same.png").write_bytes((root / "blue" / "0.png").read_bytes())
    assert cli.main([*_words(made, tmp_path / "run"), "--support", str(root)]) == 2
    said = capsys.readouterr().err
    assert f"{str(root / 'blue' / '0.png')!r} of class 'blue' and {str(root / 'red' / 'same.png')!r} of class" in said
    assert "are the same image" in said
    table = tmp_path / "texts.csv"
    table.write_text("text,label\nfine,good\npoor,bad\nfine ,bad\n")
    with pytest.raises(ValueError, match="'fine' of class 'good' and 'fine ' of class 'bad' are the same text"):
        few.run(FewShot("w", table))


def test_mistakes_are_told(made, tmp_path, capsys):
    table = tmp_path / "texts.csv"
    table.write_text("text,label\nfine,good\npoor,bad\n")
    words = ["adapt-few", str(made / "weights"), "--support", str(table), "--out", str(tmp_path / "x"), "--steps", "2"]
    assert cli.main(words) == 2
    assert "fine-tuning augments images, and the support set holds texts" in capsys.readouterr().err
    wrong: dict[str, Any] = {"steps": -1, "seed": -1, "size": 0, "learning_rate": 0.0}
    for name, value in wrong.items():
        given: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"{name}={value}"):
            FewShot("w", tmp_path, **given)

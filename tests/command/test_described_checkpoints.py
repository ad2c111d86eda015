"""Checkpoints that `fit` wrote from Python, which say their network."""

import json

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import jtl
from jtl import cli
from jtl.command import inference
from jtl.command.saved_network import opened, whole
from jtl.preprocess.image import IMAGENET, Preprocessing

pytestmark = pytest.mark.whole

CONFIG = {"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
CONFIG |= {"intermediate_size": 20, "image_size": 8, "patch_size": 4}
INPUTS = Preprocessing((8, 8), None, "bilinear", *IMAGENET)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photos, a network loaded for their classes, and a trained run of it that was validated."""
    root, draw = tmp_path_factory.mktemp("described"), np.random.default_rng(0)
    for name, dark in (("day", 150), ("night", 0)):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(dark, dark + 90, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    body = jtl.backbones.vit(jtl.backbones.Size(12, 1, 3, 20), image=8, patch=4)
    new = jtl.network(backbone=body, head=jtl.heads.linear(2))
    variables = new.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    (root / "net").mkdir()
    (root / "net" / "config.json").write_text(json.dumps(CONFIG))
    save_file({n: np.asarray(a) for n, a in jtl.flatten(variables.params).items()}, root / "net" / "model.safetensors")
    loaded = jtl.load(root / "net", classes=("day", "night"), reinit=("head/.*",))._replace(preprocessing=INPUTS)
    train(loaded, root / "run", network=loaded)
    return root, loaded


def train(loaded, folder, ema=None, **options):
    draw = np.random.default_rng(1)
    data = jtl.data.arrays(draw.normal(size=(8, 8, 8, 3)).astype(np.float32), np.arange(8) % 2, batch_size=4)
    step = jtl.make_step(jtl.finetune(loaded.network), optax.sgd(0.1), ema=ema)
    state = step.init(loaded.variables, jax.random.key(0))
    # The loss rises and falls, so that the best step is seldom the newest.
    judge = jtl.Validation(jtl.evaluation(loaded.network), data, every=1)
    saver = jtl.Checkpoints(folder, every=1, keep=4, **options)
    one = jtl.mesh(devices=jax.devices()[:1])
    found = jtl.fit(step, state, data, steps=3, mesh=one, checkpoints=saver, validation=judge, progress=False)
    return saver, found


def save(loaded, folder, **options):
    """One checkpoint, of a run that has not begun."""
    state = jtl.make_step(jtl.finetune(loaded.network), optax.sgd(0.1)).init(loaded.variables, jax.random.key(0))
    with jtl.Checkpoints(folder, **options) as saver:
        saver.save(state)


def best(made):
    root, loaded = made
    saver = jtl.Checkpoints(root / "run")
    return loaded, saver.variables(step="best")


def test_predict_names_the_classes_as_the_best_network_says(made, capsys):
    root, files = made[0], [made[0] / "photos" / name / "0.png" for name in ("day", "night")]
    assert cli.main(["predict", str(root / "run"), *map(str, files), "--csv", str(root / "out.csv")]) == 0
    said = capsys.readouterr().out.splitlines()
    loaded, variables = best(made)
    # By hand: the file's pixels, of the right size already, normalised by ImageNet's moments.
    mean, std = (np.float32(a) for a in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = np.stack([(np.asarray(Image.open(file), np.float32) / 255 - mean) / std for file in files])
    z = np.asarray(loaded.network.apply(variables, x, train=False)[0].output, np.float64)
    shares = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    found = [[float(v) for v in line.split(",")[3:]] for line in (root / "out.csv").read_text().splitlines()[1:]]
    np.testing.assert_allclose(found, shares, atol=2e-6)
    for line, share in zip(said, shares, strict=True):
        assert line.split(": ")[1].startswith(("day", "night")[int(share.argmax())])


def test_eval_scores_and_export_writes_the_same_network(made, capsys):
    root = made[0]
    assert cli.main(["eval", str(root / "run"), str(root / "photos")]) == 0
    assert "of 8" in capsys.readouterr().out
    assert cli.main(["export", str(root / "run"), str(root / "hf")]) == 0
    exported = load_file(root / "hf" / "model.safetensors")
    variables = best(made)[1]
    np.testing.assert_array_equal(
        exported["classifier.weight"], np.asarray(variables.params["head"]["out"]["kernel"]).T
    )
    config = json.loads((root / "hf" / "config.json").read_text())
    assert config["id2label"] == {"0": "day", "1": "night"}
    assert json.loads((root / "hf" / "preprocessor_config.json").read_text())["size"] == {"height": 8, "width": 8}


def test_load_of_the_folder_knows_classes_and_preprocessing(made):
    found = jtl.load(made[0] / "run")
    assert found.labels == ("day", "night")
    assert found.preprocessing == INPUTS


def test_what_is_missing_is_told(made, tmp_path, capsys):
    root, loaded = made
    photo = str(root / "photos" / "day" / "0.png")
    save(loaded, tmp_path / "bare")
    assert cli.main(["predict", str(tmp_path / "bare"), photo]) == 2
    assert "jtl.Checkpoints(folder, network=loaded)" in capsys.readouterr().err
    save(loaded, tmp_path / "nameless", network=loaded._replace(labels=None))
    assert cli.main(["predict", str(tmp_path / "nameless"), photo]) == 2
    assert "does not say the names of its classes" in capsys.readouterr().err
    save(loaded, tmp_path / "inputless", network=loaded._replace(preprocessing=None))
    assert cli.main(["predict", str(tmp_path / "inputless"), photo]) == 2
    assert "does not say what its inputs go through" in capsys.readouterr().err


def test_another_network_is_refused(made, tmp_path):
    root, loaded = made
    other = jtl.load(root / "net", classes=("a", "b", "c"), reinit=("head/.*",))
    with pytest.raises(ValueError, match=r"'head/out/bias' has the shape \(3,\) in it, and \(2,\) in the state"):
        save(loaded, tmp_path, network=other)
    with pytest.raises(ValueError, match=r"config\.json describes another network than network="):
        save(loaded, root / "run", network=loaded._replace(labels=("night", "day")))


def test_what_a_method_trained_beside_the_network_is_left(made, tmp_path):
    loaded = made[1]
    variables = loaded.variables._replace(params=loaded.variables.params | {"critic": {"w": np.ones(3, np.float32)}})
    step = jtl.make_step(lambda params, stats, batch, key, step: 0.0 * params["critic"]["w"].sum(), optax.sgd(0.1))
    with jtl.Checkpoints(tmp_path, network=loaded) as saver:
        saver.save(step.init(variables, jax.random.key(0)))
    found = whole(tmp_path)
    assert found.variables.params.keys() == {"backbone", "head"}
    assert found.labels == ("day", "night")


def test_what_the_validation_judged_is_used(made, tmp_path, capsys):
    """Averages of parameters where the run keeps them: by predict, eval, export and load, which say so."""
    root, loaded = made
    saver, fitted = train(loaded, tmp_path / "run", ema=0.9, network=loaded)
    step, photo = saver.best(), root / "photos" / "day" / "0.png"
    last, mean = saver.variables(step=step, averages=False), saver.variables(step=step)
    x = (np.asarray(Image.open(photo), np.float32)[None] / 255 - IMAGENET[0]) / np.asarray(IMAGENET[1], np.float32)

    def shares(variables):
        z = np.asarray(loaded.network.apply(variables, x.astype(np.float32), train=False)[0].output, np.float64)[0]
        return np.exp(z) / np.exp(z).sum()

    said = f"step {step}, the best by its validation; the moving averages of its parameters"
    assert cli.main(["predict", str(tmp_path / "run"), str(photo), "--csv", str(tmp_path / "out.csv")]) == 0
    assert said in capsys.readouterr().err
    found = [float(v) for v in (tmp_path / "out.csv").read_text().splitlines()[1].split(",")[3:]]
    np.testing.assert_allclose(found, shares(mean), atol=2e-6)
    assert abs(shares(last) - shares(mean)).max() > 1e-4
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    assert said in capsys.readouterr().err
    exported = load_file(tmp_path / "hf" / "model.safetensors")["classifier.weight"]
    np.testing.assert_array_equal(exported, np.asarray(mean.params["head"]["out"]["kernel"]).T)
    assert cli.main(["eval", str(tmp_path / "run"), str(root / "photos")]) == 0
    assert said in capsys.readouterr().err
    # By the definition: the newest state's averages, 0.9 of the one before and 0.1 of the parameters.
    newest = jtl.load(tmp_path / "run").variables.params
    jax.tree.map(np.testing.assert_array_equal, newest, jax.device_get(jtl.averaged(fitted.state)))
    before = saver.variables(step=2).params["head"]["out"]["kernel"]
    now = saver.variables(step=3, averages=False).params["head"]["out"]["kernel"]
    np.testing.assert_allclose(newest["head"]["out"]["kernel"], 0.9 * before + 0.1 * now, atol=1e-6)


def test_the_step_that_is_used_is_told(made, tmp_path, capsys):
    loaded = made[1]
    save(loaded, tmp_path, network=loaded)
    assert cli.main(["export", str(tmp_path), str(tmp_path / "hf")]) == 0
    assert f"{tmp_path}: step 0, the newest, because none was scored\n" in capsys.readouterr().err


def test_a_run_that_is_not_finished_names_its_checkpoints(made, tmp_path, capsys):
    loaded = made[1]
    save(loaded, tmp_path / "checkpoints", network=loaded)
    for words in (["predict", str(tmp_path), "a.png"], ["eval", str(tmp_path)], ["export", str(tmp_path), "out"]):
        assert cli.main(words) == 2
        assert f"give its checkpoints, {str(tmp_path / 'checkpoints')!r}" in capsys.readouterr().err


def test_an_interrupt_is_told_in_a_line(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "judge", interrupted)
    monkeypatch.setattr("jtl.command.actions.saved", lambda run: run)
    assert cli.main(["eval", "run", "photos"]) == 130
    assert capsys.readouterr().err == "jtl: interrupted\n"


@pytest.mark.parametrize("read", [jtl.load, opened])
def test_checkpoints_with_an_adapter_say_how_to_merge_it(made, tmp_path, read):
    """To leave the adapter, as other tensors without a parameter, gave the network before the run."""
    loaded = made[1]
    adapter = jtl.peft.lora(2, (r"block\d+/attention/query",))
    net, variables = jtl.peft.attach(loaded.network, loaded.variables, adapter, jax.random.key(1))
    variables = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1, variables)  # LoRA begins with zeros
    save(loaded._replace(variables=variables), tmp_path / "run", network=loaded)
    with pytest.raises(ValueError, match=r"an adapter of jtl.peft, 2 parameters as 'backbone/adapter.*merge") as error:
        read(tmp_path / "run")
    assert "unused" not in str(error.value)
    merged = jtl.peft.merge(jtl.Checkpoints(tmp_path / "run").variables(), adapter)  # as the message says
    jtl.save(tmp_path / "new", loaded, merged, format="jtl")
    again, x = jtl.load(tmp_path / "new"), np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    expected = net.apply(variables, x, train=False)[0].output
    np.testing.assert_allclose(again.network.apply(again.variables, x, train=False)[0].output, expected, atol=1e-5)
    base = jtl.load(tmp_path / "run", unused=("backbone/adapter/.*",))  # who asks for it gets it
    assert "adapter" not in base.variables.params["backbone"]

"""What `jtl.save` writes, transformers loads: nothing missing, nothing left over, the same outputs."""

import json
import os
from inspect import unwrap

import jax
import jax.numpy as jnp
import made
import numpy as np
import optax
import pytest
from loading import channels_first, close, images
from PIL import Image
from safetensors.numpy import load_file

from jtl import replace
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.model import Variables
from jtl.preprocess.image import Preprocessing
from jtl.pretrained.load import load
from jtl.pretrained.save import save
from jtl.replace import CannotSwap
from jtl.train.step import make_step
from jtl.weights import WeightNameError

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
transformers = pytest.importorskip("transformers")

from torch_references import hf_resnet, hf_vit
from torch_resnets import cifar_resnet

NETS = {
    "resnet-basic": lambda: (hf_resnet("basic"), (45, 39)),
    "resnet-bottleneck": lambda: (hf_resnet("bottleneck", classes=3, width=6, depths=(1, 2)), (32, 32)),
    "vit": lambda: (hf_vit(), (12, 12)),
}


@pytest.fixture(params=NETS)
def saved(request, tmp_path):
    """A folder of transformers, and the size of the images."""
    net, size = NETS[request.param]()
    net.save_pretrained(tmp_path / "in")
    return tmp_path / "in", size


def test_transformers_loads_a_fine_tuned_network(saved, tmp_path):
    folder, size = saved
    names = ("ant", "bee", "wasp", "żuk")
    loaded = load(folder, classes=names, reinit=("head/.*",))
    # Training moves everything, running statistics too (variances stay positive).
    leaves, tree = jax.tree.flatten(loaded.variables)
    draw = np.random.default_rng(0)
    tuned = jax.tree.unflatten(tree, [a + np.float32(0.1) * draw.random(a.shape, np.float32) for a in leaves])
    save(tmp_path / "out", loaded, tuned)
    theirs, account = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(account.values()), account
    assert tuple(theirs.config.id2label[i] for i in range(4)) == names
    x = images(size)
    with torch.no_grad():
        wanted = theirs.eval()(channels_first(x)).logits
    # The sums of some hundred terms come in another order.
    close(jax.jit(predictor(loaded.network))(tuned, x), wanted, 1e-5, "logits")
    again = load(tmp_path / "out")
    assert again.labels == names
    jax.tree.map(np.testing.assert_array_equal, again.variables, tuned)


def test_what_was_read_is_written_bit_by_bit(saved, tmp_path):
    folder, _ = saved
    save(tmp_path / "out", load(folder))
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "out"))
    assert sorted(before) == sorted(after)
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViTImageProcessor", {"image_mean": [0.1, 0.2, 0.3], "resample": 3}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
        ("CLIPImageProcessor", {"resample": 2}),
    ],
)
def test_preprocessing_is_saved_with_the_network(kind, options, tmp_path):
    before = getattr(transformers, kind)(**options)
    hf_vit().save_pretrained(tmp_path / "in")
    before.save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in")
    save(tmp_path / "out", loaded)
    assert load(tmp_path / "out").preprocessing == loaded.preprocessing
    after = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)
    x, y = (np.asarray(p(image, return_tensors="np")["pixel_values"]) for p in (before, after))
    np.testing.assert_array_equal(x, y)


def test_preprocessing_of_grey_images_is_saved_with_the_network(tmp_path):
    before = transformers.CLIPImageProcessor(size={"shortest_edge": 30}, crop_size=24, image_mean=[0.3] * 3)
    hf_vit().save_pretrained(tmp_path / "in")
    before.save_pretrained(tmp_path / "in")
    save(tmp_path / "out", load(tmp_path / "in", in_chans=1))
    after = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8))
    x, y = (np.asarray(p(image, return_tensors="np")["pixel_values"]) for p in (before, after))
    mean, std = np.array(before.image_mean), np.array(before.image_std)
    grey = x[:, :1] * std[0] + mean[0]
    np.testing.assert_allclose(y, (grey - mean.mean()) / std.mean(), atol=1e-6)


def test_half_precision_stays_half(tmp_path):
    hf_vit().save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in", dtype=jnp.bfloat16)
    save(tmp_path / "out", loaded)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16}
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out", dtype=jnp.bfloat16).variables, loaded.variables)


def test_what_cannot_be_saved_is_named(tmp_path):
    hf_vit().save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in")
    with pytest.raises(ValueError, match=r"format='keras': give one of \('hf', 'timm'"):
        unwrap(save)(tmp_path / "out", loaded, format="keras")
    with pytest.raises(ValueError, match="2 labels for a head of 5 classes"):
        save(tmp_path / "out", loaded._replace(labels=("a", "b")))
    deeper = {**loaded.variables.params, "head": {**loaded.variables.params["head"], "hidden1": {"bias": np.zeros(2)}}}
    with pytest.raises(WeightNameError, match="head/hidden1/bias"):
        save(tmp_path / "out", loaded, loaded.variables._replace(params=deeper))
    torch.save(cifar_resnet(20).state_dict(), tmp_path / "x.th")
    with pytest.raises(ValueError, match="transformers has no network of the family 'cifar_resnet'"):
        save(tmp_path / "out", load(tmp_path / "x.th", arch="cifar_resnet20"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"holds pytorch_model.bin, other weights"):
        save(tmp_path / "other", loaded)
    (tmp_path / "run" / "step_00000001").mkdir(parents=True)
    (tmp_path / "run" / "step_00000001" / "manifest.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"run holds checkpoints, which jtl.load would read"):
        save(tmp_path / "run", loaded)
    with pytest.raises(NotADirectoryError, match=r"pytorch_model.bin is a file; give a folder"):
        save(tmp_path / "other" / "pytorch_model.bin", loaded)


def test_variables_of_another_network_are_not_saved(tmp_path):
    """Nobody could read them, or transformers would draw anew what they lack."""
    hf_vit().save_pretrained(tmp_path / "in")
    loaded = load(tmp_path / "in")
    params, stats = loaded.variables
    kernel, bias = params["head"]["out"]["kernel"], params["head"]["out"]["bias"]
    side_by_side = jax.tree.map(lambda a: np.stack([a] * 2), params)
    for changed, words in (
        ({"head": {"out": {"kernel": kernel}}}, "head/out/bias is missing"),
        ({"head": {"out": {"kernel": np.ones((48, 5)), "bias": bias}}}, r"kernel is \(48, 5\) in place of \(24, 5\)"),
        (side_by_side, r"key/bias is \(2, 24\) in place of \(24,\).*pmap_step"),
        ({"critic": params["head"]}, r"hold \['critic'\] besides 'backbone' and 'head'"),
    ):
        for format in ("hf", "jtl"):
            with pytest.raises(WeightNameError, match=words):
                save(tmp_path / "out", loaded, Variables({**params, **changed}, stats), format=format)
    other = load(tmp_path / "in", image=24)
    with pytest.raises(WeightNameError, match=r"backbone/position is \(1, 37, 24\) in place of \(1, 10, 24\)"):
        save(tmp_path / "out", loaded, other.variables)
    state = make_step(finetune(loaded.network), optax.sgd(0.1)).init(loaded.variables, jax.random.key(0))
    with pytest.raises(TypeError, match=r"variables is a State: give .*jtl.variables\(state\)"):
        unwrap(save)(tmp_path / "out", loaded, state)
    assert not (tmp_path / "out").exists()


def test_another_networks_preprocessing_is_not_taken_over(tmp_path):
    hf_vit().save_pretrained(tmp_path / "in")
    unsaid = load(tmp_path / "in")
    transformers.ViTImageProcessor().save_pretrained(tmp_path / "in")
    save(tmp_path / "out", load(tmp_path / "in"))
    with pytest.raises(FileExistsError, match=r"holds preprocessor_config.json, which would be read with these"):
        save(tmp_path / "out", unsaid)
    # One of a processor is read before the one that is saved.
    both = json.loads((tmp_path / "in" / "preprocessor_config.json").read_text())
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "processor_config.json").write_text(json.dumps({"image_processor": both}))
    loaded = load(tmp_path / "in")
    save(tmp_path / "both", loaded)
    assert isinstance(loaded.preprocessing, Preprocessing)
    other = loaded._replace(preprocessing=loaded.preprocessing._replace(mean=(0.1, 0.2, 0.3)))
    with pytest.raises(FileExistsError, match=r"holds processor_config.json, .* in place of their own"):
        save(tmp_path / "both", other)


def cannot_swap(*_):
    """As for a folder where a file system is mounted."""
    raise CannotSwap("Device or resource busy")


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_a_save_that_is_killed_leaves_no_mix_of_two_networks(moved, tmp_path, monkeypatch):
    """Where the folder cannot be renamed; of the same measures, so that a mix of the two would be read."""
    monkeypatch.setattr("jtl.pretrained.save.replace_folder", cannot_swap)
    loaded = load(made.folder(tmp_path / "in", made.VIT))
    old, new = (loaded._replace(labels=tuple(names)) for names in ("abc", "xyz"))
    save(tmp_path / "out", old)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    done = iter(range(moved))

    def killed(*paths):
        if next(done, None) is None:
            raise KeyboardInterrupt
        rename(*paths)

    rename = os.replace
    monkeypatch.setattr(os, "replace", killed)
    more = jax.tree.map(lambda a: a + 1, loaded.variables)
    if moved < 3:
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "out", new, more)
        with pytest.raises(FileNotFoundError, match=r"holds no weights: .*config.json"):
            load(tmp_path / "out")
        (left,) = (tmp_path / "out").glob(".partial-*")
        assert (left / "earlier.safetensors").read_bytes() == before
        for name, value in load_file(left / "model.safetensors").items():
            np.testing.assert_allclose(value, load_file(tmp_path / "in" / "model.safetensors")[name] + 1, rtol=1e-6)
    else:
        save(tmp_path / "out", new, more)
        assert load(tmp_path / "out").labels == tuple("xyz")
        jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out").variables, more)


@pytest.mark.parametrize("other", [True, False])
def test_two_saves_into_one_folder_at_once_are_told(other, tmp_path, monkeypatch):
    """One goes through between two files of the other; where both are of one network, that is what is there."""
    monkeypatch.setattr("jtl.pretrained.save.replace_folder", cannot_swap)
    loaded = load(made.folder(tmp_path / "in", made.VIT))
    meanwhile = [loaded._replace(labels=("x", "y", "z")) if other else loaded]
    rename = os.replace

    def interleaved(*paths):
        rename(*paths)
        if paths[1].name == "config.json" and meanwhile:
            save(tmp_path / "out", meanwhile.pop())

    monkeypatch.setattr(os, "replace", interleaved)
    if other:
        with pytest.raises(
            FileExistsError, match=r"another process saved into .*out at the same time, and config.json"
        ):
            save(tmp_path / "out", loaded)
    else:
        save(tmp_path / "out", loaded)
        jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out").variables, loaded.variables)
    assert sorted(made.files(tmp_path / "out")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("exchange", [True, False])
def test_the_old_network_or_the_new_one_is_there_at_any_time(exchange, tmp_path, monkeypatch):
    """At every call that changes or flushes a file of it, and what lies beside the network stays."""
    loaded = load(made.folder(tmp_path / "in", made.VIT))
    old, new = (loaded._replace(labels=tuple(names)) for names in ("abc", "xyz"))
    out, more = tmp_path / "a" / "out", jax.tree.map(lambda a: a + 1, loaded.variables)
    save(out, old)
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("kept")
    seen = []

    def found():
        again = load(out)
        state = {"abc": loaded.variables, "xyz": more}["".join(again.labels or ())]
        jax.tree.map(np.testing.assert_array_equal, again.variables, state)
        return "".join(again.labels or ())

    def watched(call):
        def watching(*args, **options):
            seen.append(found())
            value = call(*args, **options)
            seen.append(found())
            return value

        return watching

    if exchange:
        monkeypatch.setattr(replace, "_exchange", watched(replace._exchange))
    else:  # between its two renames the folder is away, and returns where the second fails
        monkeypatch.setattr(replace, "_exchange", lambda *_: False)
    with monkeypatch.context() as during:
        for name in ("fsync", "link"):
            during.setattr(os, name, watched(getattr(os, name)))
        save(out, new, more)
    assert seen == sorted(seen)
    assert seen[0] == "abc"
    assert seen[-1] == found() == "xyz"
    assert (out / "notes" / "mine.txt").read_text() == "kept"
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "notes"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert out.stat().st_mode == (tmp_path / "in").stat().st_mode


def test_a_failed_second_rename_returns_the_old_network(tmp_path, monkeypatch):
    loaded = load(made.folder(tmp_path / "in", made.VIT))
    save(tmp_path / "out", loaded)
    before, rename = made.files(tmp_path / "out"), os.rename

    def refused(source, target):
        if str(source).endswith("new"):
            raise PermissionError("not allowed")
        rename(source, target)

    monkeypatch.setattr(replace, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", refused)
    monkeypatch.setattr("jtl.pretrained.save._in_place", lambda *_: pytest.fail("as it should"))
    with pytest.raises(pytest.fail.Exception, match="as it should"):
        save(tmp_path / "out", loaded._replace(labels=("x", "y", "z")))
    assert made.files(tmp_path / "out") == before


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    loaded = load(made.folder(tmp_path / "in", made.VIT))
    save(tmp_path / "out", loaded)
    before = made.files(tmp_path / "out")

    def full(tensors, path, **options):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "out", loaded, jax.tree.map(lambda a: a + 1, loaded.variables))
    assert made.files(tmp_path / "out") == before


def test_a_save_replaces_an_earlier_one(tmp_path):
    hf_vit().save_pretrained(tmp_path)
    loaded = load(tmp_path)
    more = jax.tree.map(lambda a: a + 1, loaded.variables)
    save(tmp_path, loaded._replace(labels=tuple("abcde")), more)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path).variables, more)
    assert json.loads((tmp_path / "config.json").read_text())["label2id"] == dict(zip("abcde", range(5), strict=True))

"""From files to the input of a network: windows, sizes, and transformers of images without a margin."""

import json

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from PIL import Image

import jtl
from jtl import cli
from jtl.command.model import Inputs, image, inputs_of, normalised, pretrained, side_of
from jtl.data import augment
from jtl.preprocess.audio_spec import Waves
from jtl.preprocess.image import HALF, IMAGENET, Preprocessing, transform
from jtl.pretrained.load import load

VIT = {
    "model_type": "vit",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 16,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (root / name).mkdir()
        for i in range(6):
            pixels = draw.integers(0, 90, (40, 36, 3))
            pixels[..., channel] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def test_the_middle_of_what_training_sees_is_what_evaluation_sees(photos):
    how = Preprocessing(32, 28, "bilinear", *IMAGENET)
    seen, larger = image(photos / "red" / "0.png", how), image(photos / "red" / "0.png", how, 32 / 28)
    assert larger.shape == (32, 32, 3)
    np.testing.assert_array_equal(larger[2:30, 2:30], seen)


@pytest.mark.parametrize(("size", "crop"), [((16, 16), None), (16, 16), ((16, 16), 16)])
def test_without_a_margin_of_the_crop_training_sees_an_enlarged_image(photos, size, crop):
    """By Pillow; the windows of training then have the side of evaluation."""
    file, how = photos / "red" / "0.png", Preprocessing(size, crop, "bilinear", *HALF)
    assert image(file, how).shape == (16, 16, 3)
    assert side_of(how) == 16
    with Image.open(file) as opened:  # 36 wide and 40 high
        whole = opened.resize((18, 18) if isinstance(size, tuple) else (18, 20), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[:18] if isinstance(size, tuple) else np.asarray(whole)[1:19]
    np.testing.assert_array_equal(image(file, how, 18 / 16), expected)


def test_images_that_are_no_squares_keep_their_form(photos):
    how = Preprocessing((12, 20), None, "bilinear", *HALF)
    assert side_of(how) is None
    assert image(photos / "red" / "0.png", how, 1.5).shape == (12, 20, 3)


@pytest.mark.parametrize("how", [
    Preprocessing(16, 12, "bicubic", *HALF), Preprocessing(16, None, "lanczos", *HALF),
    Preprocessing((14, 10), None, "bilinear", *HALF), Preprocessing((14, 10), 8, "nearest", *HALF),
    Preprocessing(None, 9, "bilinear", *HALF),
])  # fmt: skip
def test_a_folder_in_python_has_the_pixels_that_predict_sees(tmp_path, how):
    """The README read photos by the crop alone, so a saved network saw others than it was trained on."""
    for i, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 31, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    rows = jtl.data.folder(tmp_path, transform=transform(how), batch_size=2, shuffle=False)[0]["x"]
    with jax.transfer_guard("disallow_explicit"):  # no device takes part
        seen = Inputs(preprocessing=how).read([tmp_path / name / "0.png" for name in "ab"])
    np.testing.assert_array_equal(augment.normalise(how.mean, how.std)(None, jnp.asarray(rows)), seen)


def test_weights_without_a_preprocessing_of_images_are_told(tmp_path):
    for none in (None, Waves()):
        with pytest.raises(ValueError, match=r"preprocessing=.*: the weights came with no preprocessing of images"):
            transform(none)
    with pytest.raises(ValueError, match=r"and none is given: .* jtl\.preprocess\.image\.transform"):
        jtl.data.folder(tmp_path, size=Preprocessing((8, 8), None, "bilinear", *HALF).crop, batch_size=1)


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, HALF, ((0.1307,), (0.3081,))])
def test_images_are_normalised_as_on_a_device(mean, std):
    seen = np.arange(256, dtype=np.uint8).reshape(2, 16, 8, 1).repeat(len(mean), 3)
    wanted = np.asarray(augment.normalise(mean, std)(None, jnp.asarray(seen)))
    found = normalised(seen, mean, std)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)  # with jax 0.10 to the bit
    for wrong in ((mean, (0.0,) * len(std)), ((*mean, 0.5), std)):
        with pytest.raises(ValueError, match="std positive"):
            normalised(seen, *wrong)


def test_a_network_of_grey_images_gets_grey_ones(photos):
    assert image(photos / "red" / "0.png", Preprocessing(16, None, "bilinear", (0.5,), (0.5,))).shape == (16, 16, 1)


def test_images_of_several_sizes_want_a_size(photos, tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "other.png")
    weights = made.folder(tmp_path / "net", VIT)
    loaded = pretrained(str(weights), ("a", "b"), arch=None, kind="images", key=None)
    kept = loaded._replace(preprocessing=Preprocessing(None, None, "bilinear", *HALF))
    inputs, _ = inputs_of(kept, "net", "images", [], None)
    with pytest.raises(ValueError, match=r"other\.png' has 30 x 30 pixels.*give --size"):
        inputs.read([photos / "red" / "0.png", tmp_path / "other.png"])


def test_unsaid_preprocessing_is_of_the_size_that_position_embeddings_have(tmp_path):
    weights = made.folder(tmp_path / "net", VIT)
    for size, side in ((None, 16), (24, 24)):
        loaded = pretrained(str(weights), ("a", "b"), arch=None, kind="images", key=None, size=size)
        inputs, _ = inputs_of(loaded, "net", "images", [], size)
        assert side_of(inputs.preprocessing) == side
        assert loaded.variables.params["backbone"]["position"].shape[-2] == 1 + (side // 8) ** 2


@pytest.mark.slow  # seven programs are compiled
def test_a_transformer_of_images_is_tuned_whole_at_another_size(photos, tmp_path, capsys):
    weights, out = made.folder(tmp_path / "net", VIT), tmp_path / "run"
    words = ["finetune", str(photos), "--weights", str(weights), "--out", str(out), "--ways", "all"]
    words += ["--steps", "1", "--batch", "4", "--size", "24", "--find-rate"]
    assert cli.main(words) == 0, capsys.readouterr().err
    about = json.loads((out / "run.json").read_text())
    told = capsys.readouterr().out
    fell = f"learning rate {about['learning_rate']:.2g}, by a range test" in told
    stayed = "the rate stays 2e-05" in told and about["learning_rate"] == 2e-5
    assert fell != stayed
    assert "Learning rate" in (out / "report.html").read_text()
    assert side_of(load(out / "model").preprocessing) == 24
    assert cli.main(["predict", str(out), str(photos / "red" / "0.png")]) == 0
    assert "0.png: " in capsys.readouterr().out

"""Preprocessing against transformers' image processors."""

import json

import numpy as np
import pytest

from jtl.preprocess import pixels
from jtl.preprocess import text as preprocess_text
from jtl.preprocess.image import IMAGENET, Preprocessing, from_timm, from_transformers, to_transformers, transform
from jtl.pretrained.load import load
from jtl.pretrained.recognise import recognise
from jtl.pretrained.save import save
from jtl.pretrained.zero_shot import towers

torch = pytest.importorskip("torch", reason="torch is the reference; it is installed for Python 3.11 only")
pytest.importorskip("transformers")

from torch_references import hf_vit


@pytest.mark.parametrize(
    ("kind", "options", "wanted"),
    [
        ("ViTImageProcessor", {}, ((224, 224), None, "bilinear")),
        (
            "ViTImageProcessor",
            {"size": {"height": 384, "width": 384}, "resample": 3},
            ((384, 384), None, "bicubic"),
        ),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (256, 224, "bicubic")),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "resample": 2}, ((384, 384), None, "bilinear")),
        ("CLIPImageProcessor", {}, (224, 224, "bicubic")),
    ],
)
def test_does_what_transformers_does_to_an_image(kind, options, wanted, tmp_path):
    """To 1.5/255: transformers keeps a resized image in other number types than Pillow does."""
    import transformers

    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path)
    hf_vit().save_pretrained(tmp_path)
    found = load(tmp_path).preprocessing
    assert found[:3] == wanted
    rows = np.linspace(0, 255, 300)[:, None, None] * np.ones((1, 400, 1))
    image = np.concatenate([rows, rows[::-1], np.linspace(0, 255, 400)[None, :, None] + 0 * rows], -1).astype(np.uint8)
    ours = pixels.resize(image, found.size, found.interpolation)
    ours = ours if found.crop is None else pixels.center_crop(ours, found.crop, found.corner)
    ours = (ours / 255 - found.mean) / found.std
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1.5 / 255 / min(found.std)


def test_a_crops_corner_is_rounded_as_transformers_has_it():
    """A room of 3, 7 or 11 pixels is halved to the nearest by torchvision and timm, and down by transformers."""
    import transformers

    told = {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 12}
    how, processor = from_transformers(told), transformers.CLIPImageProcessorPil(**told)
    for room in range(12):
        image = np.random.default_rng(room).integers(0, 256, (12, 12 + room, 3), np.uint8)
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose((transform(how)(image) / 255 - how.mean) / how.std, theirs, rtol=0, atol=1e-5)


def test_a_crops_corner_is_saved():
    """transformers cannot say the other's, and passes over the word."""
    import transformers

    for how in (Preprocessing(14, 12, "bicubic", *IMAGENET), from_transformers({"crop_size": 12}, "clip")):
        told = to_transformers(how)
        assert from_transformers(told) == how
        assert transformers.CLIPImageProcessorPil(**told).crop_size == {"height": 12, "width": 12}
    assert from_transformers({"crop_size": 12}, "clip").corner == "floor"
    with pytest.raises(ValueError, match="crop_corner='up': give one of"):
        from_transformers({"crop_size": 12, "crop_corner": "up"}, "clip")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((30, 40, 3), np.float32), r"of shape \(30, 40, 3\) and type float32: give uint8 \[height"),
        (np.zeros((30, 40, 3), np.uint16), "type uint16: give"),
        (np.zeros((30, 40), np.uint8), r"shape \(30, 40\) and"),
        (np.zeros((3, 30, 40), np.uint8), r"shape \(3, 30, 40\) and type uint8: .*with 1, 3 or 4 channels"),
        (np.zeros((0, 40, 3), np.uint8), r"shape \(0, 40, 3\)"),
        ("photo.png", "the image is a str: give"),
    ],
)
@pytest.mark.parametrize("size", [None, 8])
def test_what_is_no_image_is_refused(image, said, size):
    """Pillow scales, or reads in another way, what is of another number type."""
    with pytest.raises(ValueError, match=said):
        transform(Preprocessing(size, None, "bicubic", *IMAGENET))(image)


RED = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1]}


@pytest.mark.parametrize(
    ("model", "told", "wanted"),
    [
        # As the first files on the Hub say it: a number alone is the short side to some processors.
        ("clip", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 48}, (64, 48)),
        ("clip", {"size": 64, "crop_size": 48}, (64, 48)),
        (
            "clip",
            {"image_processor_type": "CLIPImageProcessorFast", "default_to_square": True, "size": 64, "crop_size": 48},
            None,
        ),
        ("clip", {"size": 64, "do_center_crop": None}, (64, None)),
        ("bit", {"size": 64, "crop_size": 48, "resample": 2}, (64, 48)),
        ("dinov2", {}, (224, 224)),
        ("mobilenet_v2", {"feature_extractor_type": "MobileNetV2FeatureExtractor", "crop_size": 192}, (256, 192)),
        ("deit", {"size": 64, "crop_size": 48}, ((64, 64), 48)),
        ("siglip", {"size": 64, "do_normalize": None}, (64, None)),
        ("resnet", {"size": 56, "crop_pct": 0.875}, (64, 56)),
        ("convnext", {"size": {"shortest_edge": 56}, "do_resize": False}, (None, None)),
        ("swin", {"size": 64, "do_rescale": False}, ((64, 64), None)),
        # EfficientNet's divides by the deviation twice, where it is not told that there is no classifier.
        ("efficientnet", {"size": 64}, ((64, 64), None)),
        ("efficientnet", {"size": 64, "include_top": False, "resample": 0}, ((64, 64), None)),
        ("efficientnet", {"size": 64, "rescale_offset": True, "rescale_factor": 1 / 127.5}, ((64, 64), None)),
    ],
)
def test_what_a_file_leaves_out_is_what_its_processor_does(model, told, wanted, tmp_path):
    """To the rounding of float32, of the largest number: the same pixels, and mean and deviation in one step."""
    import transformers

    (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**RED, **told}))
    found = recognise(tmp_path, None).preprocessing
    assert wanted in (None, found[:2])
    image = np.random.default_rng(0).integers(0, 256, (80, 140, 3), np.uint8)
    ours = image if found.size is None else pixels.resize(image, found.size, found.interpolation)
    ours = ours if found.crop is None else pixels.center_crop(ours, found.crop, found.corner)
    ours = (ours / 255 - found.mean) / found.std
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            {"image_processor_type": "LevitImageProcessor"},
            r"image_processor_type='LevitImageProcessor': known are .*ViT",
        ),
        ({"do_pad": True}, "do_pad=True: jtl resizes, cuts out"),
        ({"do_resize": "no"}, "do_resize='no': give true or false"),
        ({"rescale_factor": 0}, "rescale_factor=0: give a number"),
        ({"do_center_crop": True, "crop_size": [8, 8]}, r"crop_size='\[8, 8\]': give"),
    ],
)
def test_a_processor_that_does_something_else_is_refused(told, words, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=words):
        recognise(tmp_path, None)


def test_timms_borders_are_refused():
    with pytest.raises(ValueError, match="crop_mode='border': known are 'center' and 'squash'"):
        from_timm({"input_size": [3, 8, 8], "crop_mode": "border"}, Preprocessing(8, 8, "bicubic", *IMAGENET))


def test_the_part_of_a_processor_goes_before_a_file_of_its_own(tmp_path):
    """As in transformers 5, which writes the one and reads the other of older files."""
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text('{"size": 8}')
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"size": 9}}')
    assert recognise(tmp_path, None).preprocessing[0] == (9, 9)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert recognise(tmp_path, None).preprocessing[0] == (8, 8)


def test_nothing_said_is_none(tmp_path):
    hf_vit().save_pretrained(tmp_path)
    assert load(tmp_path).preprocessing is None


def test_a_processor_of_images_and_texts_says_both(tmp_path):
    """transformers 5 writes one file for both; each tower takes its own part, and transformers reads what is saved."""
    import transformers
    from torch_vits import hf_clip

    letters = [f"{a}{end}" for end in ("", "</w>") for a in "abcdefghijklmnopqrstuvw"]
    words = {word: i for i, word in enumerate([*letters, "ab</w>", "cab</w>", "<|startoftext|>", "<|endoftext|>"])}
    assert len(words) == 50
    tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[("a", "b</w>"), ("c", "ab</w>")])
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 14}, crop_size={"height": 12, "width": 12})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(tmp_path / "in")
    hf_clip().save_pretrained(tmp_path / "in")
    assert not (tmp_path / "in" / "preprocessor_config.json").exists()

    image, text = towers(load(tmp_path / "in"))
    assert image.preprocessing[:3] == (14, 12, "bicubic")
    save(tmp_path / "text", text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "text")
    assert "CLIP" in type(theirs).__name__
    texts = ["cab ab a", "", "Bad cab" * 5]
    given = theirs(texts, padding="max_length", truncation=True, max_length=9, return_tensors="np")
    ours = preprocess_text.tokenizer(text.tokenizer, length=9)(texts)
    np.testing.assert_array_equal(ours["ids"], given["input_ids"])
    np.testing.assert_array_equal(ours["mask"], given["attention_mask"])
    assert transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path / "text").config.vocab_size == 50


def test_what_is_no_processor_is_named(tmp_path):
    hf_vit().save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"image_processor": 7}')
    with pytest.raises(ValueError, match=r"processor_config.json: image_processor='7': give names and values"):
        load(tmp_path)

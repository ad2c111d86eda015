"""Preprocessing against transformers' image processors."""

import numpy as np
import pytest

from jtl import data
from jtl.weights.load import load
from jtl.weights.save import save
from jtl.weights.towers import towers

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
    ours = data.images.resize(image, found.size, found.interpolation)
    ours = ours if found.crop is None else data.images.center_crop(ours, found.crop)
    ours = (ours / 255 - found.mean) / found.std
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1.5 / 255 / min(found.std)


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
    ours = data.text.tokenizer(text.tokenizer, length=9)(texts)
    np.testing.assert_array_equal(ours["ids"], given["input_ids"])
    np.testing.assert_array_equal(ours["mask"], given["attention_mask"])
    assert transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path / "text").config.vocab_size == 50


def test_what_is_no_processor_is_named(tmp_path):
    hf_vit().save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"image_processor": 7}')
    with pytest.raises(ValueError, match=r"processor_config.json: image_processor='7': give names and values"):
        load(tmp_path)

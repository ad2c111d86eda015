"""Preprocessing against transformers' image processors."""

import numpy as np
import pytest

from jtl import data
from jtl.weights.load import load

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

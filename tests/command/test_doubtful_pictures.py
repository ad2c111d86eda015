"""Photos whose end is missing are decoded, and told in the order in which they are given."""

import io

import numpy as np
import pytest
from PIL import Image

from jtl.command.pictures import refuse_broken


def encoded(seed, form, **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def test_a_photo_of_several_pictures_that_is_cut_is_refused(tmp_path):
    second = Image.new("RGB", (8, 8))
    content = encoded(0, "mpo", save_all=True, append_images=[second])
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    whole.write_bytes(content)
    cut.write_bytes(content[: len(content) // 2])
    with Image.open(cut) as image:
        assert image.format == "MPO"
    refuse_broken([whole])
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        refuse_broken([whole, cut])


def test_broken_images_are_told_in_their_order(tmp_path):
    files = [tmp_path / f"{(7 * i) % 10}.jpg" for i in range(10)]
    for i, file in enumerate(files):
        file.write_bytes(encoded(i, "jpeg")[: -200 if i % 2 else None])
    with pytest.raises(ValueError, match="5 of 10 images cannot be read") as told:
        refuse_broken(files)
    lines = str(told.value).splitlines()[1:]
    assert [file.name in line for file, line in zip(files[1::2], lines, strict=True)] == [True] * 5

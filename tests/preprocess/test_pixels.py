"""Host preprocessing against closed forms and pillow."""

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from jtl.preprocess import pixels

RAMP = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)


def test_resize_takes_torchvisions_sizes_and_pillows_filter():
    small = pixels.resize(RAMP, 4, "bicubic")
    assert small.shape == (4, 5, 3)  # int(4 * 10 / 7)
    assert (small == np.asarray(Image.fromarray(RAMP).resize((5, 4), Image.Resampling.BICUBIC))).all()
    assert pixels.resize(RAMP.transpose(1, 0, 2), 4).shape == (5, 4, 3)
    assert pixels.resize(RAMP[:, :, :1], (3, 2)).shape == (3, 2, 1)
    assert pixels.resize(np.full((7, 10, 3), 9, np.uint8), 4, "lanczos").tolist() == np.full((4, 5, 3), 9).tolist()


def test_crops_are_windows():
    # rooms of 3 and 6: round(1.5) = 2 and 3
    assert (pixels.center_crop(RAMP, 4) == RAMP[2:6, 3:7]).all()
    rng = np.random.default_rng(0)
    places = set()
    for _ in range(400):
        out = pixels.random_crop(RAMP, 4, rng)
        places |= {(i, j) for i in range(4) for j in range(7) if (RAMP[i : i + 4, j : j + 4] == out).all()}
    assert len(places) == 28


def test_decode_gives_back_the_pixels(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert (pixels.decode(tmp_path / "a.png") == RAMP).all()
    assert (pixels.decode((tmp_path / "a.png").read_bytes()) == RAMP).all()
    assert pixels.decode(tmp_path / "a.png", "L").shape == (7, 10, 1)


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a crop of 8 does not fit an image of 7 x 10"):
        pixels.center_crop(RAMP, 8)
    with pytest.raises(ValueError, match="interpolation is 'cubic'"):
        pixels.resize(RAMP, 4, "cubic")
    with pytest.raises(ValueError, match=r"size is \(0, 0\); give at least 1 pixel"):
        pixels.resize(RAMP, 0)
    with pytest.raises(ValueError, match="mode is 'XYZ'; it must be one of"):
        pixels.decode(b"no image", "XYZ")
    for broken in (b"no image", b"P6 3x 2 255 " + bytes(18), b"P6 70000 70000 255 "):
        with pytest.raises(ValueError, match="image does not decode"):
            pixels.decode(broken)
    buffer = io.BytesIO()
    Image.fromarray(RAMP).convert("P").save(buffer, "PNG")
    with pytest.raises(ValueError, match="pixel format P; pass mode='RGB'"):
        pixels.decode(buffer.getvalue())
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png' has pixel format I;16; only 8-bit"):
        pixels.decode(tmp_path / "deep.png")


def png(width, height):
    """The header of a picture of so many pixels, and no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_only_formats_of_pictures_are_opened(tmp_path, monkeypatch):
    """An EPS, by whatever name, would start Ghostscript."""
    for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        Image.fromarray(RAMP).save(tmp_path / "x", name)
        assert pixels.decode(tmp_path / "x", "RGB").shape == RAMP.shape
    Image.fromarray(RAMP).save(tmp_path / "x.png", "EPS")
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail(f"{args} was started"))
    with pytest.raises(ValueError, match=r"x\.png' does not decode: it is none of JPEG, PNG"):
        pixels.decode(tmp_path / "x.png")


def test_pixels_are_bounded_before_they_have_memory(tmp_path):
    (tmp_path / "x.png").write_bytes(png(9000, 9000))
    with pytest.raises(ValueError, match=r"x\.png' does not decode: it has 9000 x 9000 pixels; at most 67108864 are"):
        pixels.decode(tmp_path / "x.png")
    narrow = np.zeros((65000, 1, 3), np.uint8)
    with pytest.raises(ValueError, match="an image of 65000 x 1 would be resized to 14560000 x 224; at most 67108864"):
        pixels.short_side_crop(narrow, 224)
    assert pixels.resize(narrow, (8, 8)).shape == (8, 8, 3)


@pytest.mark.parametrize("limit", [40, 60])  # Pillow raises above twice of it, and warns above it
def test_an_image_of_too_many_pixels_for_pillow_is_left_to_decode(tmp_path, monkeypatch, limit):
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert not pixels.turned(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png' does not decode: Image size \(100 pixels\) exceeds limit of"):
        pixels.decode(tmp_path / "x.png")


def test_transparent_colours_of_a_palette_are_colours(tmp_path):
    """Pillow's own conversion gives the same, and warns."""
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(pixels.decode(tmp_path / "p.png", "RGB"), np.asarray(image.convert("RGB")))

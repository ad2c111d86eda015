"""Images on the host: decode, resize, crop, as functions of uint8 arrays [height, width, channels]."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "_height _width _channels"]
MODES = (None, "L", "RGB", "RGBA")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


def decode(file: str | Path | bytes, mode: str | None = None) -> Image:
    """The pixels of an image file, uint8 [height, width, channels]; the stored orientation is not applied.

    Args:
      file: a path, or the file's bytes.
      mode: "L", "RGB" or "RGBA" converts; None takes L, RGB and RGBA files as they are.

    Raises:
      ValueError: for a file that does not decode, or, without mode, has another pixel format; the path is named.
    """
    from PIL import Image as pil

    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {MODES}")
    name = "image" if isinstance(file, bytes) else f"image {str(file)!r}"
    try:
        image = pil.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        with image:
            image.load()
    # Pillow raises SyntaxError for broken PNG chunks, ValueError for broken headers, and its own for too many pixels.
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        raise ValueError(f"{name} does not decode: {error}") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{name} has pixel format {image.mode}; only 8-bit images are read")
    if mode is None and image.mode not in MODES:
        raise ValueError(f"{name} has pixel format {image.mode}; pass mode='RGB' to convert it")
    pixels = np.asarray(image if mode in (None, image.mode) else image.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def resize(image: Image, size: int | tuple[int, int], interpolation: str = "bilinear") -> Image:
    """Resizes with antialias (pillow's filters, as torchvision's Resize does on PIL images).

    Args:
      image: [height, width, channels].
      size: the short side, the long one being int(size * long / short) as in torchvision; or (height, width).
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
    """
    from PIL import Image as pil

    if interpolation not in FILTERS:
        raise ValueError(f"interpolation is {interpolation!r}; it must be one of {FILTERS}")
    height, width, channels = image.shape
    if isinstance(size, int):
        short, long = min(height, width), max(height, width)
        far = int(size * long / short)
        size = (size, far) if height <= width else (far, size)
    if min(size) < 1:
        raise ValueError(f"size is {size}; give at least 1 pixel")
    if size == (height, width):
        return image
    small = pil.fromarray(image[:, :, 0] if channels == 1 else image)
    small = small.resize((size[1], size[0]), pil.Resampling[interpolation.upper()])
    return np.asarray(small).reshape(*size, channels)


def center_crop(image: Image, size: int) -> Image:
    """The middle square [size, size, channels]; the corner is round((side - size) / 2), as in torchvision."""
    top, left = (round(room / 2) for room in _room(image, size))
    return image[top : top + size, left : left + size]


def random_crop(image: Image, size: int, rng: np.random.Generator) -> Image:
    """A square [size, size, channels] whose corner is uniform over all places where it fits."""
    top, left = (int(rng.integers(room + 1)) for room in _room(image, size))
    return image[top : top + size, left : left + size]


def short_side_crop(image: Image, size: int, interpolation: str = "bilinear") -> Image:
    """`resize` of the short side to `size`, then `center_crop`."""
    return center_crop(resize(image, size, interpolation), size)


def _room(image: Any, size: int) -> tuple[int, int]:
    height, width, _ = image.shape
    if not 1 <= size <= min(height, width):
        raise ValueError(f"a crop of {size} does not fit an image of {height} x {width}")
    return height - size, width - size

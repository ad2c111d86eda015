"""Decodes, resizes and crops images on the host, as uint8 arrays [height, width, channels]."""

import io
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from jtl.paths import local

Image = UInt8[np.ndarray, "_height _width _channels"]
Corner = Literal["round", "floor"]
"""How the corner of a centre crop is rounded: to the nearest pixel as in torchvision, or down as in transformers."""
MODES = (None, "L", "RGB", "RGBA")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Pillow's names of the formats that are decoded. Others run programs (EPS: Ghostscript) or rarely needed parsers."""
ORIENTATION = 0x0112
"""The EXIF tag of an image's orientation."""
MAX_PIXELS = 1 << 26
"""The most pixels of an image that is decoded, or made by `resize`: 67 million, 200 MB in RGB; 60 megapixels fit."""


def decode(file: str | Path | bytes, mode: str | None = None) -> Image:
    """Reads the pixels of an image file, uint8 [height, width, channels]; the stored orientation is not applied.

    Args:
      file: a path, or the file's bytes.
      mode: "L", "RGB" or "RGBA" to convert to; None takes L, RGB and RGBA files as they are.

    Raises:
      ValueError: if the file has none of `FORMATS`, does not decode, has more than `MAX_PIXELS` pixels, or, without
        mode, has another pixel format, naming the path.

    Example:
      >>> import io
      >>> from PIL import Image
      >>> from jtl.preprocess import pixels
      >>> file = io.BytesIO()
      >>> Image.new("RGB", (4, 2), "red").save(file, "png")
      >>> pixels.decode(file.getvalue()).shape
      (2, 4, 3)
    """
    from PIL import Image as pil

    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {MODES}")
    name = "image" if isinstance(file, bytes) else f"image {str(file)!r}"
    try:
        image = pil.open(io.BytesIO(file) if isinstance(file, bytes) else local(file, "file"), formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:  # from the header, before any of them has memory
                raise ValueError(f"it has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
            image.load()
    # Pillow raises SyntaxError for broken PNG chunks, ValueError for broken headers, and its own for too many pixels.
    except pil.UnidentifiedImageError as error:
        raise ValueError(f"{name} does not decode: it is none of {', '.join(FORMATS)}, or damaged") from error
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError, pil.DecompressionBombWarning) as error:
        raise ValueError(f"{name} does not decode: {error}") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{name} has pixel format {image.mode}; only 8-bit images are read: convert it")
    if mode is None and image.mode not in MODES:
        raise ValueError(f"{name} has pixel format {image.mode}; pass mode='RGB' to convert it")
    if image.mode == "P" and mode == "RGB":
        image = image.convert("RGBA")  # the same colours, without Pillow's warning of those that are transparent
    pixels = np.asarray(image if mode in (None, image.mode) else image.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def turned(file: str | Path) -> bool:
    """Returns whether an image's stored orientation (EXIF) differs from that of its pixels; only the header is read.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> from jtl.preprocess import pixels
      >>> file = tempfile.mkdtemp() + "/ant.png"
      >>> Image.new("RGB", (4, 2)).save(file)
      >>> pixels.turned(file)
      False
    """
    from PIL import Image as pil

    try:
        with pil.open(local(file, "file"), formats=FORMATS) as image:
            return image.getexif().get(ORIENTATION, 1) not in (0, 1)
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError, pil.DecompressionBombWarning):
        return False  # `decode` says what is wrong with it


def resize(image: Image, size: int | tuple[int, int], interpolation: str = "bilinear") -> Image:
    """Resizes with antialiasing, by Pillow's filters, like torchvision's Resize on PIL images.

    Args:
      image: [height, width, channels].
      size: the short side, with the long side int(size * long / short) as in torchvision; or (height, width).
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos".

    Raises:
      ValueError: for anything but such an image; a size below 1, or of more than `MAX_PIXELS` pixels, for example if a
        narrow image is enlarged by its short side; or an unknown interpolation.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import pixels
      >>> pixels.resize(np.zeros((8, 16, 3), np.uint8), 4).shape
      (4, 8, 3)
    """
    from PIL import Image as pil

    if interpolation not in FILTERS:
        raise ValueError(f"interpolation is {interpolation!r}; it must be one of {FILTERS}")
    check(image)
    height, width, channels = image.shape
    if isinstance(size, int):
        short, long = min(height, width), max(height, width)
        far = int(size * long / short)
        size = (size, far) if height <= width else (far, size)
    if min(size) < 1:
        raise ValueError(f"size is {size}; give at least 1 pixel")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"an image of {height} x {width} would be resized to {size[0]} x {size[1]}; at most {MAX_PIXELS} pixels"
            " are made"
        )
    if size == (height, width):
        return image
    small = pil.fromarray(image[:, :, 0] if channels == 1 else image)
    small = small.resize((size[1], size[0]), pil.Resampling[interpolation.upper()])
    return np.asarray(small).reshape(*size, channels)


def check(image: Any) -> None:
    """Refuses anything but an image as `decode` returns it.

    Raises:
      ValueError: naming its shape and dtype.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import pixels
      >>> pixels.check(np.zeros((8, 16, 3), np.uint8))
    """
    shape, kind = getattr(image, "shape", ()), getattr(image, "dtype", type(image).__name__)
    if kind != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or not shape[0] or not shape[1]:
        of = f"of shape {tuple(shape)} and type {kind}" if hasattr(image, "shape") else f"a {kind}"
        raise ValueError(f"the image is {of}: give uint8 [height, width, channels] with 1, 3 or 4 channels")


def center_crop(image: Image, size: int, corner: Corner = "round") -> Image:
    """Cuts out the centre square [size, size, channels].

    Args:
      image: at least as large as the square.
      size: the side of the square.
      corner: where the square begins: "round" at round((side - size) / 2), as in torchvision and timm, "floor" at
        ⌊(side - size) / 2⌋, as in transformers.

    Raises:
      ValueError: if the square does not fit.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import pixels
      >>> pixels.center_crop(np.arange(9, dtype=np.uint8).reshape(3, 3, 1), 1).item()
      4
    """
    whole = {"round": round, "floor": math.floor}[corner]
    top, left = (whole(room / 2) for room in _room(image, size))
    return image[top : top + size, left : left + size]


def random_crop(image: Image, size: int, rng: np.random.Generator) -> Image:
    """Cuts out a square [size, size, channels] whose corner is uniform over all places where it fits.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import pixels
      >>> pixels.random_crop(np.zeros((8, 10, 3), np.uint8), 6, np.random.default_rng(0)).shape
      (6, 6, 3)
    """
    top, left = (int(rng.integers(room + 1)) for room in _room(image, size))
    return image[top : top + size, left : left + size]


def short_side_crop(image: Image, size: int, interpolation: str = "bilinear") -> Image:
    """Applies `resize` of the short side to `size`, then `center_crop`.

    Example:
      >>> import numpy as np
      >>> from jtl.preprocess import pixels
      >>> pixels.short_side_crop(np.zeros((8, 16, 3), np.uint8), 4).shape
      (4, 4, 3)
    """
    return center_crop(resize(image, size, interpolation), size)


def _room(image: Any, size: int) -> tuple[int, int]:
    height, width, _ = image.shape
    if not 1 <= size <= min(height, width):
        raise ValueError(f"a crop of {size} does not fit an image of {height} x {width}")
    return height - size, width - size

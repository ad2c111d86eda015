"""Corruptions of small images, in five severities, as defined by CIFAR-10-C."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from jtl.checked import integer, seed_of

NAMES = ("gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur", "contrast", "brightness", "jpeg")


def corrupt(
    images: UInt8[np.ndarray, "rows height width 3"], name: str, severity: int, *, seed: int = 0
) -> UInt8[np.ndarray, "rows height width 3"]:
    """Corrupts images of about 32x32 pixels.

    With x in [0, 1], to which the result is clipped: `gaussian_noise` adds N(0, σ²), σ .04 .06 .08 .09 .10;
    `shot_noise` is Poisson(c x) / c, c 500 250 100 75 50; `impulse_noise` sets a share .01 .02 .03 .05 .07 of the
    numbers to 0 or 1; `gaussian_blur` has σ .4 .6 .7 .8 1 pixels; `contrast` is m + c (x − m) about each channel's mean
    m, c .75 .5 .4 .3 .15; `brightness` adds .05 .1 .15 .2 .3 to the V of HSV; `jpeg` compresses at quality 80 65 58 50
    40.

    Args:
      images: the images, which are not changed in place.
      name: one of `NAMES`.
      severity: 1 to 5.
      seed: the seed of the noise; the same seed gives the same noise.

    Raises:
      ValueError: for another name or severity, a seed that is not an integer of at least 0, or images of another type
        or shape.

    Example:
      >>> import numpy as np, jtl
      >>> jtl.data.corrupt(np.full((1, 4, 4, 3), 100, np.uint8), "brightness", 5)[0, 0, 0].tolist()
      [176, 176, 176]

    Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, 2019,
    arXiv 1903.12261.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r}: there are {', '.join(NAMES)}")
    if not integer(severity) or severity not in range(1, 6):
        raise ValueError(f"severity={severity!r}: an integer, 1 to 5")
    seed_of(seed)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images are {images.dtype} {list(images.shape)}: give uint8 [rows, height, width, 3]")
    if name == "jpeg":
        quality = (80, 65, 58, 50, 40)[severity - 1]
        return np.stack([_jpeg(image, quality) for image in images])
    draw, x = np.random.default_rng(seed), images / 255.0
    found = _BY_NAME[name](x, severity - 1, draw)
    return (np.clip(found, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(x: np.ndarray, i: int, draw: np.random.Generator) -> np.ndarray:
    return x + draw.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[i], size=x.shape)


def _shot_noise(x: np.ndarray, i: int, draw: np.random.Generator) -> np.ndarray:
    c = (500, 250, 100, 75, 50)[i]
    return draw.poisson(x * c) / c


def _impulse_noise(x: np.ndarray, i: int, draw: np.random.Generator) -> np.ndarray:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[i]
    hit, white = draw.random(x.shape) < share, draw.random(x.shape) < 0.5
    return np.where(hit, white.astype(x.dtype), x)


def _gaussian_blur(x: np.ndarray, i: int, draw: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    del draw
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[i]
    return gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)


def _contrast(x: np.ndarray, i: int, draw: np.random.Generator) -> np.ndarray:
    del draw
    middle = x.mean((1, 2), keepdims=True)
    return middle + (0.75, 0.5, 0.4, 0.3, 0.15)[i] * (x - middle)


def _brightness(x: np.ndarray, i: int, draw: np.random.Generator) -> np.ndarray:
    """Changes the value in HSV, which scales all channels alike; black becomes grey."""
    del draw
    value = x.max(3, keepdims=True)
    new = np.clip(value + (0.05, 0.1, 0.15, 0.2, 0.3)[i], 0, 1)
    return np.where(value > 0, x * new / np.where(value > 0, value, 1), new)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored))


_BY_NAME: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "contrast": _contrast,
    "brightness": _brightness,
}

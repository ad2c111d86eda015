"""scikit-learn's handwritten digits, 8x8: real, and on disk once scikit-learn is installed."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.extras import NotInstalled
from jtl.preprocess import pixels
from jtl.typing import Key

SIDE = 8


def load() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 8, 8, 1] in [0, 1], ink bright, and labels [1797]; the writers follow one another.

    Raises:
      NotInstalled: a ModuleNotFoundError, without scikit-learn, naming the extra that brings it.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise NotInstalled("the digits come with scikit-learn: pip install 'jtl[demo]'", name="sklearn") from error
    digits: Any = load_digits()
    return (digits.images / 16).astype(np.float32)[..., None], digits.target.astype(np.int32)


def support(y: np.ndarray, classes: range, shot: int, seed: int) -> np.ndarray:
    """Rows of `shot` random examples of each class."""
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.choice(np.flatnonzero(y == c), shot, replace=False) for c in classes])


def by_class(x: np.ndarray, y: np.ndarray, classes: range) -> np.ndarray:
    """The examples class by class, [classes, per_class, ...]: as many of each as the rarest has."""
    rows = [np.flatnonzero(y == c) for c in classes]
    fewest = min(map(len, rows))
    return np.stack([x[r[:fewest]] for r in rows])


def ink(key: Key, x: Any) -> Any:
    """Images in [0, 1] as [-1, 1], the ink of each bright or dark by a coin."""
    side = jax.random.rademacher(key, (len(x), 1, 1, 1), jnp.float32)
    return side * (2 * x - 1)


def noisy(key: Key, x: Any, std: float) -> Any:
    """Images in [0, 1] as [-1, 1], each pixel with Gaussian noise of deviation `std` before."""
    return 2 * (x + std * jax.random.normal(key, x.shape)) - 1


def read(path: Path) -> np.ndarray:
    """An image file as a network's input [8, 8, 1] in [-1, 1]: grey, resized, ink bright."""
    image = pixels.resize(pixels.decode(path, "L"), (SIDE, SIDE)).astype(np.float32)
    return image / 127.5 - 1


def write(image: Any, path: Path, scale: int = 16) -> Path:
    """An image [8, 8, 1] as a PNG, black at -1 and white at 1, each pixel `scale` times as large."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.rint((np.clip(np.asarray(image)[..., 0], -1, 1) + 1) * 127.5).astype(np.uint8)
    Image.fromarray(np.kron(grey, np.ones((scale, scale), np.uint8))).save(path)
    return path

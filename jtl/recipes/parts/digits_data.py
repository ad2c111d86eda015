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
    """Images [1797, 8, 8, 1] in [0, 1], with bright ink, and labels [1797]; rows are ordered by writer.

    Raises:
      NotInstalled: a ModuleNotFoundError, if scikit-learn is missing, naming the extra that installs it.
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
    """The examples class by class, [classes, per_class, ...]: as many of each class as the rarest class has."""
    rows = [np.flatnonzero(y == c) for c in classes]
    fewest = min(map(len, rows))
    return np.stack([x[r[:fewest]] for r in rows])


def ink(key: Key, x: Any) -> Any:
    """Maps images from [0, 1] to [-1, 1], the ink of each bright or dark at random."""
    side = jax.random.rademacher(key, (len(x), 1, 1, 1), jnp.float32)
    return side * (2 * x - 1)


def noisy(key: Key, x: Any, std: float) -> Any:
    """Maps images from [0, 1] to [-1, 1], after adding Gaussian noise of deviation `std` to each pixel."""
    return 2 * (x + std * jax.random.normal(key, x.shape)) - 1


def read(path: Path) -> np.ndarray:
    """Reads an image file as a network's input [8, 8, 1] in [-1, 1]: grey, resized, with bright ink."""
    image = pixels.resize(pixels.decode(path, "L"), (SIDE, SIDE)).astype(np.float32)
    return image / 127.5 - 1


def write(image: Any, path: Path, scale: int = 16) -> Path:
    """Writes an image [8, 8, 1] as a PNG, black at -1 and white at 1, each pixel `scale` times as large."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.rint((np.clip(np.asarray(image)[..., 0], -1, 1) + 1) * 127.5).astype(np.uint8)
    Image.fromarray(np.kron(grey, np.ones((scale, scale), np.uint8))).save(path)
    return path

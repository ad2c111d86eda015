"""Interpolates position embeddings for images of another size."""

import math
from typing import Literal

import jax
import numpy as np

from jtl.nn import vision_transformer
from jtl.weights.mapping.transforms import Transform, identity

Kernel = Literal["bicubic", "antialiased", "linear", "offset"]


def interpolated(side: int, of: Transform = identity, kernel: Kernel = "bicubic") -> Transform:
    """Returns a transform of n² position embeddings, [1, n², d] with 0 to 2 further tokens first, to `side²` patches.

    Args:
      side: the new number of patches per row.
      of: the transform from the file's layout.
      kernel: "bicubic", as in transformers' `interpolate_pos_encoding`; "antialiased", also bicubic, as in timm's
        `resample_abs_pos_embed` and, for DINOv2 with registers only, in transformers; "linear" with aligned corners, as
        the zoom in the JAX code of ViT and big_vision; or "offset", bicubic by a scale of (side + 0.1) / n, as in
        DINOv2's own code without registers.
    """

    def forward(x: np.ndarray) -> np.ndarray:
        x = np.asarray(of.forward(x))
        old = math.isqrt(x.shape[1]) if x.ndim == 3 else 0
        if old < 1 or x.shape[1] - old * old > 2:
            raise ValueError(f"expected [1, n*n, width] with 0 to 2 tokens more, got {x.shape}")
        if old == side:
            return x
        wide = x.astype(np.float32)
        if kernel == "linear":
            return _zoomed(wide, old, side)
        if kernel == "offset":
            return _scaled(wide, old, side)
        return np.asarray(vision_transformer.interpolated(wide, (side, side), kernel == "antialiased"))

    def inverse(x: np.ndarray) -> np.ndarray:
        return of.inverse(x)  # interpolated embeddings are written as they are

    return Transform(f"{of.name}, interpolated to {side}x{side}", forward, inverse)


def _scaled(x: np.ndarray, old: int, side: int) -> np.ndarray:
    """Resizes like torch's bicubic `interpolate(scale_factor=(side + 0.1) / old)`: i is at (i + 1/2) / scale - 1/2."""
    first, width = x.shape[1] - old * old, x.shape[2]
    square, scale = x[:, first:].reshape(1, old, old, width), np.full(2, (side + 0.1) / old, np.float32)
    new = jax.image.scale_and_translate(
        square, (1, side, side, width), (1, 2), scale, np.zeros(2, np.float32), "cubic-pytorch", antialias=False
    )
    return np.concatenate([x[:, :first], np.asarray(new).reshape(1, side * side, width)], 1)


def _zoomed(x: np.ndarray, old: int, side: int) -> np.ndarray:
    """Resizes linearly along both axes: place i of the new row is at i (old - 1) / (side - 1) of the old row."""
    first = x.shape[1] - old * old
    shares = np.stack([np.interp(np.linspace(0, old - 1, side), range(old), row) for row in np.eye(old)], 1)
    square = np.einsum("ir,jc,rcd->ijd", shares, shares, x[0, first:].reshape(old, old, -1), optimize=True)
    return np.concatenate([x[:, :first], square.reshape(1, side * side, -1).astype(x.dtype)], 1)

"""Position embeddings for images of another size."""

import math
from typing import Literal

import jax
import numpy as np

from jtl.nn import vision_transformer
from jtl.weights.mapping.transforms import Transform, identity

Kernel = Literal["bicubic", "antialiased", "linear", "offset"]


def interpolated(side: int, of: Transform = identity, kernel: Kernel = "bicubic") -> Transform:
    """A square of position embeddings, [1, n², d], or after those of one or two tokens, for `side²` patches.

    Args:
      side: how many patches there shall be in a row.
      of: from the file's layout.
      kernel: "bicubic" as transformers' `interpolate_pos_encoding`; "antialiased", bicubic too, as timm's
        `resample_abs_pos_embed` and, in DINOv2 with registers alone, transformers; "linear" with corners on corners,
        as the JAX code of ViT and big_vision zoom; or "offset", "bicubic" by a scale of (side + 0.1) / n, as DINOv2's
        own code has it without registers.
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
        return of.inverse(x)  # what was interpolated is written as it is

    return Transform(f"{of.name}, interpolated to {side}x{side}", forward, inverse)


def _scaled(x: np.ndarray, old: int, side: int) -> np.ndarray:
    """Bicubic as torch's `interpolate(scale_factor=(side + 0.1) / old)`: place i is at (i + 1/2) / scale - 1/2."""
    first, width = x.shape[1] - old * old, x.shape[2]
    square, scale = x[:, first:].reshape(1, old, old, width), np.full(2, (side + 0.1) / old, np.float32)
    new = jax.image.scale_and_translate(
        square, (1, side, side, width), (1, 2), scale, np.zeros(2, np.float32), "cubic-pytorch", antialias=False
    )
    return np.concatenate([x[:, :first], np.asarray(new).reshape(1, side * side, width)], 1)


def _zoomed(x: np.ndarray, old: int, side: int) -> np.ndarray:
    """Linear along both axes: place i of the new row is at i (old - 1) / (side - 1) of the old one."""
    first = x.shape[1] - old * old
    shares = np.stack([np.interp(np.linspace(0, old - 1, side), range(old), row) for row in np.eye(old)], 1)
    square = np.einsum("ir,jc,rcd->ijd", shares, shares, x[0, first:].reshape(old, old, -1), optimize=True)
    return np.concatenate([x[:, :first], square.reshape(1, side * side, -1).astype(x.dtype)], 1)

"""Position embeddings for images of another size."""

import math

import numpy as np

from jtl.backbones import vision_transformer
from jtl.weights.transforms import Transform, identity


def interpolated(side: int, of: Transform = identity, *, antialias: bool = False) -> Transform:
    """A square of position embeddings, [1, n², d] or after one for the class token [1, 1 + n², d], for `side²` patches.

    Bicubic, as transformers' `interpolate_pos_encoding` and timm's `resample_abs_pos_embed` have it.

    Args:
      side: how many patches there shall be in a row.
      of: from the file's layout.
      antialias: as timm has it, and transformers in DINOv2 with registers alone.
    """

    def forward(x: np.ndarray) -> np.ndarray:
        x = np.asarray(of.forward(x))
        old = math.isqrt(x.shape[1]) if x.ndim == 3 else 0
        if old < 1 or x.shape[1] - old * old > 1:
            raise ValueError(f"expected [1, 1 + n*n, width], got {x.shape}")
        if old == side:
            return x
        return np.asarray(vision_transformer.interpolated(x.astype(np.float32), (side, side), antialias))

    def inverse(x: np.ndarray) -> np.ndarray:
        return of.inverse(x)  # what was interpolated is written as it is

    return Transform(f"{of.name}, interpolated to {side}x{side}", forward, inverse)

"""Position embeddings for images of another size."""

import math

import jax
import numpy as np

from jtl.weights.transforms import Transform


def interpolated(side: int) -> Transform:
    """A square of position embeddings after one for the class token, [1, 1 + n², d], for `side` by `side` patches.

    Bicubic with a = -0.75 and without antialias, as transformers' `interpolate_pos_encoding` has it.
    """

    def forward(x: np.ndarray) -> np.ndarray:
        old = math.isqrt(max(x.shape[1] - 1, 0)) if x.ndim == 3 else 0
        if old < 1 or old * old + 1 != x.shape[1]:
            raise ValueError(f"expected [1, 1 + n*n, width], got {x.shape}")
        if old == side:
            return x
        grid = x[:, 1:].reshape(1, old, old, -1)
        new = jax.image.resize(grid, (1, side, side, grid.shape[-1]), "cubic-pytorch", antialias=False)
        return np.concatenate([x[:, :1], np.asarray(new).reshape(1, side * side, -1)], 1)

    def inverse(x: np.ndarray) -> np.ndarray:
        return x  # what was interpolated is written as it is

    return Transform(f"interpolated to {side}x{side}", forward, inverse)

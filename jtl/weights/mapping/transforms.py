"""Transforms one array of a file to one or several of a model, and back, in pure NumPy; views where possible."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transform:
    """A change of layout and its inverse.

    Args:
      name: its name in the coverage report.
      forward: file -> model; returns a sequence of arrays if the rule has several paths.
      inverse: model -> file; takes that sequence of arrays if there are several.
    """

    name: str
    forward: Callable[[np.ndarray], np.ndarray | Sequence[np.ndarray]]
    inverse: Callable[..., np.ndarray]


def _channels_last(x: np.ndarray) -> np.ndarray:
    _need(x, 3, "a convolution's kernel [out, in, *space]")
    return np.moveaxis(x, (0, 1), (-1, -2))


def _need(x: np.ndarray, dims: int, what: str) -> None:
    if x.ndim < dims:
        raise ValueError(f"{what} has at least {dims} dimensions, this array has shape {x.shape}")


def _transpose(x: np.ndarray) -> np.ndarray:
    _need(x, 2, "a dense kernel [out, in]")
    return np.swapaxes(x, -1, -2)


identity = Transform("as is", lambda x: x, lambda x: x)

dense = Transform("[o,i] -> [i,o]", _transpose, _transpose)
"""The kernel of a dense layer."""

conv = Transform("[o,i,*s] -> [*s,i,o]", _channels_last, lambda x: np.moveaxis(x, (-1, -2), (0, 1)))
"""The kernel of a convolution with any number of spatial axes; with groups, i is the inputs of one group."""

depthwise = Transform("[c,1,*s] -> [*s,1,c]", conv.forward, conv.inverse)
"""The kernel of a depthwise convolution, which has as many groups as channels."""


def _pointwise(x: np.ndarray) -> np.ndarray:
    if x.ndim < 3 or any(size != 1 for size in x.shape[2:]):
        raise ValueError(f"a 1x1 convolution has shape [out, in, 1, 1], this array {x.shape}")
    return x.reshape(x.shape[:2]).T


def pointwise(space: int = 2) -> Transform:
    """A 1x1 convolution that the model computes as a dense layer: [o, i, 1, ...] -> [i, o]."""
    return Transform("[o,i,1..] -> [i,o]", _pointwise, lambda x: x.T.reshape(*x.T.shape, *(1,) * space))


def vector(space: int = 2) -> Transform:
    """One value for each channel, stored with axes of 1 to broadcast over a map: [c, 1, ...] -> [c]."""

    def forward(x: np.ndarray) -> np.ndarray:
        if x.ndim != 1 + space or any(size != 1 for size in x.shape[1:]):
            raise ValueError(f"one value for each channel has shape [c{', 1' * space}], this array {x.shape}")
        return x.reshape(-1)

    return Transform("[c,1..] -> [c]", forward, lambda x: x.reshape(-1, *(1,) * space))


def flat_dense(channels: int, height: int, width: int) -> Transform:
    """The dense layer after a flattened map: its inputs go from channel-first to channel-last order."""

    def forward(x: np.ndarray) -> np.ndarray:
        if x.ndim != 2 or x.shape[1] != channels * height * width:
            raise ValueError(f"expected [out, {channels}*{height}*{width}], got {x.shape}")
        maps = x.reshape(-1, channels, height, width)
        return maps.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def inverse(x: np.ndarray) -> np.ndarray:
        maps = x.reshape(height, width, channels, -1)
        return maps.transpose(3, 2, 0, 1).reshape(x.shape[1], -1)

    return Transform(f"[o,c*{height}*{width}] -> [{height}*{width}*c,o]", forward, inverse)


def flat_conv(channels: int, height: int, width: int) -> Transform:
    """The same layer, kept as a convolution over the whole map."""
    flat = flat_dense(channels, height, width)

    def forward(x: np.ndarray) -> np.ndarray:
        if x.ndim != 4 or x.shape[1:] != (channels, height, width):
            raise ValueError(f"expected [out, {channels}, {height}, {width}], got {x.shape}")
        return np.asarray(flat.forward(x.reshape(len(x), -1)))

    def inverse(x: np.ndarray) -> np.ndarray:
        return flat.inverse(x).reshape(-1, channels, height, width)

    return Transform(f"[o,c,{height},{width}] -> [{height}*{width}*c,o]", forward, inverse)


def split(parts: int, then: Transform = identity, axis: int = 0) -> Transform:
    """Splits a fused array (q, k, v) into equal parts along `axis` of the file's layout, and applies `then`."""

    def forward(x: np.ndarray) -> list[np.ndarray]:
        if x.ndim == 0 or x.shape[axis] % parts:
            raise ValueError(f"axis {axis} of shape {x.shape} cannot be cut into {parts} equal parts")
        return [np.asarray(then.forward(part)) for part in np.split(x, parts, axis)]

    def inverse(*xs: np.ndarray) -> np.ndarray:
        return np.concatenate([then.inverse(x) for x in xs], axis)

    return Transform(f"1/{parts} of {then.name}", forward, inverse)


def merge_axes(start: int, count: int, sizes: tuple[int, ...]) -> Transform:
    """Merges `count` axes of `sizes`, from `start` on, into one (the heads in the original JAX files of ViT)."""

    def forward(x: np.ndarray) -> np.ndarray:
        if x.shape[start : start + count] != sizes:
            raise ValueError(f"axes {start} to {start + count - 1} of shape {x.shape} should be {sizes}")
        return x.reshape(*x.shape[:start], -1, *x.shape[start + count :])

    def inverse(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:start], *sizes, *x.shape[start + 1 :])

    return Transform(f"merge {sizes}", forward, inverse)

"""Converts a tensor of a file to the shape, number type and memory order of a parameter."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from jtl.weights.formats.lazy_tensors import Entry
from jtl.weights.formats.source import aligned_empty
from jtl.weights.mapping.transforms import Transform

BLOCK = 128  # numbers of the last axis copied at once, so that transposed ones come from the cache


def mismatch(array: np.ndarray, leaf: Any) -> str:
    """The reason why an array cannot be the parameter `leaf` (anything with `shape` and `dtype`); "" if it can."""
    if array.shape != tuple(leaf.shape):
        return f"the model has shape {tuple(leaf.shape)}, the file gives {array.shape}"
    if _number(array.dtype) != _number(np.dtype(leaf.dtype)):
        return f"the model has {leaf.dtype}, the file gives {array.dtype}"
    return ""


Empty = Callable[[tuple[int, ...], np.dtype], np.ndarray]  # an aligned array of a shape and number type


def own(array: np.ndarray, dtype: Any, empty: Empty = aligned_empty) -> np.ndarray:
    """The array itself if it is C-ordered, writeable and of `dtype`, else such a copy in memory from `empty`."""
    dtype = np.dtype(dtype)
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable:
        return array
    copy = empty(array.shape, dtype)
    if array.ndim < 2 or array.strides[-1] == array.itemsize:
        copy[...] = array
        return copy
    for start in range(0, array.shape[-1], BLOCK):
        copy[..., start : start + BLOCK] = array[..., start : start + BLOCK]
    return copy


def filled(entry: Entry, transform: Transform, leaf: Any, empty: Empty = aligned_empty) -> np.ndarray | None:
    """Reads a parameter from the file into memory from `empty`; None if the transform is more than a reordering.

    Through the inverse of a reordering, a parameter's own memory is seen in the layout of the file.
    """
    if entry.fill is None or _number(entry.dtype) != _number(np.dtype(leaf.dtype)):
        return None
    if prod(leaf.shape) != prod(entry.shape):  # before memory is allocated, because a config may ask for any size
        return None
    made = empty(tuple(leaf.shape), np.dtype(leaf.dtype))
    try:
        view = transform.inverse(made)
    except ValueError:  # a wrong shape, for which `forward` has the better message
        return None
    if view.shape != entry.shape or not np.shares_memory(view, made):
        return None
    entry.fill(view)
    return made


def _number(dtype: np.dtype) -> str:
    """The kind of a number: floats convert to floats, others not. (To NumPy ml_dtypes' floats are of kind "V".)"""
    return "float" if dtype.kind == "f" or "float" in dtype.name else dtype.kind

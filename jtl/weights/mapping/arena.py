"""Memory for a network's arrays, with many arrays in one piece.

The system allocates memory page by page when it is first written. For large pieces NumPy asks for pages of 2 MB, but a
single kernel of about 2 MB gets pages of 4 kB: for a ViT-B, 45,000 of them, which take 70 of 450 ms of processor time.
"""

from collections.abc import Mapping, Sequence
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from jtl.weights.formats.source import ALIGNMENT, aligned_empty

SLAB = 32 << 20  # bytes
SMALL = 64 << 10  # bytes; smaller arrays have memory of their own, so that keeping only biases keeps no slab


class Slabs:
    """Places for arrays; an array keeps its slab, of at most `SLAB` bytes or one array, alive.

    Args:
      leaves: path -> anything with `shape` and `dtype`. Neighbours share a slab.
    """

    def __init__(self, leaves: Mapping[str, Any]):
        self._lock = Lock()
        self._sizes: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._memory: dict[int, np.ndarray] = {}
        for path, leaf in leaves.items():
            count = prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
            if count < SMALL:
                continue
            if not self._sizes or self._sizes[-1] + count > SLAB:
                self._sizes.append(0)
            self._places[path] = len(self._sizes) - 1, self._sizes[-1]
            self._sizes[-1] += -(-count // ALIGNMENT) * ALIGNMENT

    def empty(self, path: str, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Returns a path's uninitialised C-ordered array, of its leaf's shape and type; call it once. Thread-safe."""
        if path not in self._places:
            return aligned_empty(shape, dtype)
        slab, start = self._places[path]
        with self._lock:
            if slab not in self._memory:
                self._memory[slab] = aligned_empty((self._sizes[slab],), np.dtype(np.uint8))
        end = start + prod(shape) * dtype.itemsize
        return self._memory[slab][start:end].view(dtype).reshape(shape)

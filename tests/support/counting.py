"""How often a test's code does something: reads a batch, or closes over an array."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax


class Counted:
    """A data set that counts in `reads` how often each of its batches is made."""

    def __init__(self, data: Any):
        self.data, self.reads = data, Counter()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, step: int) -> Any:
        self.reads[step] += 1
        return self.data[step]


def closed_over(monkeypatch: Any) -> list[int]:
    """The sizes of the arrays that functions given to `jax.jit` from here on close over, one entry a call."""
    sizes, jit = [], jax.jit

    def counted(function: Callable, **options: Any) -> Callable:
        compiled = jit(function, **options)

        def run(*args: Any) -> Any:
            sizes.append(sum(const.size for const in jax.make_jaxpr(function)(*args).consts))
            return compiled(*args)

        return run

    monkeypatch.setattr(jax, "jit", counted)
    return sizes

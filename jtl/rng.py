"""Stateless randomness: a key is a function of the root key, a name and the step."""

import zlib
from typing import Any

import jax

from jtl.typing import Key


def stream(key: Key, name: str, step: Any = None) -> Key:
    """The key of a named stream at a step: `fold_in(fold_in(key, crc32(name)), step)`.

    Nothing is split or carried along, so a resumed run draws what the uninterrupted one would have drawn.

    Args:
      key: the root key of the run.
      name: the stream, such as "dropout" or "augment".
      step: an integer or a traced scalar; None for the stream's root.

    Example:
      >>> import jax, jtl
      >>> key = jax.random.key(0)
      >>> bool(jtl.rng.stream(key, "dropout", 3) == jtl.rng.stream(key, "augment", 3))
      False
    """
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return key if step is None else jax.random.fold_in(key, step)

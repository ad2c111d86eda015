"""Carries jax's settings to other threads: `with jax.enable_x64(True)` holds only in the thread that enters it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import jax

SETTINGS = (
    "allow_f16_reductions",
    "debug_infs",
    "debug_nans",
    "default_device",
    "default_matmul_precision",
    "default_prng_impl",
    "enable_x64",
    "numpy_dtype_promotion",
    "numpy_rank_promotion",
    "threefry_partitionable",
)
"""The settings that decide which numbers jax computes, where, and what it refuses.

Transfer guards are not among them: a loop that forbids transfers has its batches made and put in other threads.
"""


def settings_here() -> Callable[[], AbstractContextManager[None]]:
    """A function that, called in another thread, returns a context with the settings of the thread that called this.

    Example:
      >>> from concurrent.futures import ThreadPoolExecutor
      >>> import jax, jax.numpy as jnp
      >>> from jtl.data.thread_settings import settings_here
      >>> def make():
      ...     with same():
      ...         return jnp.zeros(2, float).dtype.name
      >>> with jax.enable_x64(True), ThreadPoolExecutor(1) as threads:
      ...     same = settings_here()
      ...     threads.submit(make).result()
      'float64'
    """
    wanted = {name: _value(name) for name in SETTINGS}

    @contextmanager
    def same() -> Iterator[None]:
        with ExitStack() as contexts:
            for name, value in wanted.items():
                if _value(name) != value:  # setting an equal value again would recompile functions
                    contexts.enter_context(getattr(jax, name)(value))
            yield

    return same


def _value(name: str) -> Any:
    return getattr(jax.config, f"jax_{name}")

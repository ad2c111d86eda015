"""The memory allocator of a process that trains on a CPU."""

import ctypes
import sys

ARENAS, MAPPED, TRIMMED = -8, -3, -1
"""glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD (malloc.h)."""
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes the C library keep the memory that a step frees, for the next step. Call it before JAX makes an array.

    A step that is compiled for a CPU takes its temporaries as one block, and frees the block when it ends. glibc
    returns blocks above 32 MiB to the system, so each step gets new pages, which the system must clear one by one.
    After this call the process has one arena for all threads, which shrinks only when more than 2 GiB at its end are
    free. Threads that exist already keep their arenas, so a call after JAX has started changes little. The command
    `jtl` calls it; other programs may instead set the environment variables `MALLOC_ARENA_MAX=1`,
    `MALLOC_MMAP_THRESHOLD_=2147483647` and `MALLOC_TRIM_THRESHOLD_=2147483647`. It does not change results, and has no
    effect on an accelerator.

    Returns:
      Whether the C library took the settings; False if it is not glibc.

    Example:
      >>> import sys
      >>> import jtl
      >>> jtl.keep_freed_memory() or not sys.platform.startswith("linux")
      True

    The GNU C Library, Malloc Tunable Parameters.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None:
        return False
    return all([set_option(ARENAS, 1), set_option(MAPPED, LARGEST), set_option(TRIMMED, LARGEST)])

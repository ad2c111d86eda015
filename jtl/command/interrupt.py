"""Ends an interrupted command; light, because `jtl --help` imports it."""

import os
import sys
import threading
from typing import NoReturn


def end_at_once(code: int) -> NoReturn:
    """Ends the process without Python's own shutdown, once pending checkpoints are on disk.

    Threads of XLA may still compile or compute after Ctrl-C. Python does not wait for them at shutdown, because they
    are not its own, and frees what they use, so some processes would crash with a segmentation fault.

    Args:
      code: the exit status.
    """
    for thread in threading.enumerate():
        if thread.name == "jtl-save":  # of `jtl.Checkpoints`; Python's shutdown would wait for it too
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # the reader was interrupted too, so nobody misses the rest
            continue
    os._exit(code)

"""The end of a command that is interrupted; light, because `jtl --help` reads it."""

import os
import sys
import threading
from typing import NoReturn


def end_at_once(code: int) -> NoReturn:
    """Ends the process without taking the interpreter down, once saves of checkpoints are on disk.

    Threads of XLA may still compile or compute after Ctrl-C. They are not Python's, so Python does not wait for them
    when it ends, and takes down what they use: the process then crashed with a segmentation fault some of the time.

    Args:
      code: the exit status.
    """
    for thread in threading.enumerate():
        if thread.name == "jtl-save":  # of `jtl.Checkpoints`, for which Python itself would wait too
            thread.join()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # what reads it was interrupted too, so nobody misses the rest
            continue
    os._exit(code)

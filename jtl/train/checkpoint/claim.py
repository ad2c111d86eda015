"""The claim of one run on its folder: two runs that save into one folder would remove each other's checkpoints."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

NAME = "lock"


class NotClaimed(RuntimeError):
    """Raised if a run cannot have its folder to itself."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """While entered, no other process or thread can enter it for this folder.

    The operating system holds the lock (`flock`) and releases it when the process ends, however it ends, so nothing is
    left to be removed by hand. If there are no such locks, as on Windows and on some network file systems, a warning in
    the log "jtl.checkpoint" says that the folder is not protected.

    Raises:
      NotClaimed: a RuntimeError, if another run has it, with its process and host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "a+") as file:
        if not _locked(file, folder):
            logging.getLogger("jtl.checkpoint").warning("%s cannot be locked: keep other runs out of it", folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _locked(file: TextIO, folder: Path) -> bool:
    """Locks the file; False if the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "of an unknown process"
        raise NotClaimed(
            f"another run, {holder}, saves into {folder}: wait for it, or give this run a folder of its own"
        ) from None
    except OSError:
        return False
    return True

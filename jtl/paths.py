"""Paths that a user gives."""

import re
from pathlib import Path

_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # pathlib turns gs://bucket into gs:/bucket; C: has one letter


def local(path: str | Path, name: str) -> Path:
    """A path on this machine, `~` expanded.

    Args:
      path: as the user gives it.
      name: the name of the argument, for the error.

    Raises:
      ValueError: for an empty path, or the address of an object store or a server, which would make a folder `gs:`.

    Example:
      >>> from jtl.paths import local
      >>> local("runs/../x", "directory").parts
      ('runs', '..', 'x')
    """
    found = _REMOTE.match(str(path))
    if found:
        raise ValueError(
            f"{name}={str(path)!r}: jtl reads and writes local files, no {found[1]}:// addresses; mount the bucket as"
            " a folder (gcsfuse, s3fs), or copy between it and a local folder"
        )
    if not str(path).strip():
        raise ValueError(f"{name}={str(path)!r}: give a path")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"{name}={str(path)!r}: {error}") from error

"""Fetches a file from the network and checks it."""

import hashlib
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 60
"""Seconds without an answer, or without a byte."""


class File(NamedTuple):
    """A file to fetch.

    Args:
      url: its address.
      digest: the name of a hash function and the first hexadecimal digits of the checksum, such as "md5:ec16"; None if
        the authors publish none, so that only the archive's own checks apply.
    """

    url: str
    digest: str | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


def fetch(file: File, folder: Path) -> Path:
    """Fetches the file into a folder; a broken connection leaves nothing there.

    Raises:
      OSError: if the address cannot be reached or the file ends early; the address is named.
      ValueError: for another checksum; the file is not kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / file.name
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as answer, place.open("wb") as out:
            shutil.copyfileobj(answer, out)
            expected = answer.headers.get("Content-Length")
        size = place.stat().st_size
        if expected is not None and size != int(expected):
            raise OSError(f"it ended after {size} of {expected} bytes")
        if file.digest is not None and not _matches(place, file.digest):
            raise ValueError(f"{file.url} has another checksum than {file.digest}: it is not the file that is meant")
    except (OSError, HTTPException) as error:
        place.unlink(missing_ok=True)
        raise OSError(f"{file.url} cannot be read: {error}") from error
    except ValueError:
        place.unlink()
        raise
    return place


def _matches(path: Path, digest: str) -> bool:
    function, _, start = digest.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, function).hexdigest().startswith(start)

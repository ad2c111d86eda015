"""A file of a network, checked and put in its place."""

import hashlib
import shutil
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

TIMEOUT = 60
"""Seconds without an answer, or without a byte."""


class File(NamedTuple):
    """A file to fetch.

    Args:
      url: where it lies.
      digest: how its checksum begins, in hexadecimal, after the name of the function, as "md5:ec16"; None where its
        authors give none, so that the archive's own checks are all there is.
    """

    url: str
    digest: str | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


def fetch(file: File, folder: Path) -> Path:
    """The file in a folder; one that is there already, and whole, is not fetched again.

    It is written beside its place and renamed, so a broken connection leaves no half file under its name.

    Raises:
      OSError: where the address cannot be reached or ends early, by its name.
      ValueError: for another checksum; the file is not kept.
    """
    place = folder / file.name
    if place.exists() and (file.digest is None or _matches(place, file.digest)):
        return place
    folder.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as answer, part.open("wb") as out:
            shutil.copyfileobj(answer, out)
            expected = answer.headers.get("Content-Length")
    except (URLError, OSError) as error:
        part.unlink(missing_ok=True)
        raise OSError(f"{file.url} cannot be read: {error}") from error
    if expected is not None and part.stat().st_size != int(expected):
        size = part.stat().st_size
        part.unlink()
        raise OSError(f"{file.url} ended after {size} of {expected} bytes")
    if file.digest is not None and not _matches(part, file.digest):
        part.unlink()
        raise ValueError(f"{file.url} has another checksum than {file.digest}: it is not the file that is meant")
    return part.rename(place)


def _matches(path: Path, digest: str) -> bool:
    function, _, start = digest.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, function).hexdigest().startswith(start)

"""Sealed folders: a manifest, written last, holds a checksum of every file and of itself."""

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"
FROZEN = re.compile(r"frozen_[0-9a-f]{32}")
"""The name of a folder, next to those of a run's steps, with the parameters that the run does not train."""


def checksum(path: Path) -> tuple[int, int]:
    """Size in bytes and CRC-32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def seal(body: Mapping[str, Any]) -> int:
    """The checksum of a manifest's content, which the manifest holds under "crc32"."""
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def fault(folder: Path, files: Mapping[str, Any]) -> str | None:
    """Describes the first file that differs from the one written; None if all are intact.

    Args:
      folder: the sealed folder.
      files: size and CRC-32 by file name, from its manifest.
    """
    for name, told in files.items():
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return f"{path} lies outside of the folder"
        if not path.is_file():
            return f"{path} is missing"
        size, crc = told
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes in place of {size}"
        if checksum(path)[1] != crc:
            return f"{path} has changed: its checksum is not the one written"
    return None

"""What makes a folder a checkpoint: a manifest, written last, with a checksum of every file beside it."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

NAME = "manifest.json"


class Damaged(ValueError):
    """A checkpoint whose files are not those that were written."""


def write(folder: Path, content: dict[str, Any]) -> None:
    """Seals a folder: checksums all its files, and commits it by one atomic rename.

    A folder without a manifest was never finished: a process may be killed at any moment before the rename.
    """
    body = {**content, "files": {name: list(_checksum(folder / name)) for name in _files(folder)}}
    text = json.dumps({"crc32": _crc(body), **body}, indent=1)
    fresh = folder / f"{NAME}.new"
    with open(fresh, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, folder / NAME)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder.

    Raises:
      Damaged: where it is not the text that was written.
    """
    try:
        body = json.loads((folder / NAME).read_text())
        stored = body.pop("crc32")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / NAME} is not readable: {error!r}") from error
    if stored != _crc(body):
        raise Damaged(f"{folder / NAME} was changed after it was written")
    return body


def verify(folder: Path) -> dict[str, Any]:
    """Reads every file of a sealed folder again; returns the manifest.

    Raises:
      Damaged: naming the first file that is missing, truncated or changed.
    """
    body = read(folder)
    for name, (size, crc) in body["files"].items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{path} is missing")
        if path.stat().st_size != size:
            raise Damaged(f"{path} has {path.stat().st_size} bytes in place of {size}")
        if _checksum(path)[1] != crc:
            raise Damaged(f"{path} has changed: its checksum is not the one written")
    return body


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith(NAME))


def _checksum(path: Path) -> tuple[int, int]:
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _crc(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())

"""The manifest that makes a folder a checkpoint: written last, with a checksum of every file."""

import functools
import hashlib
import json
import stat
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jtl.replace import replace_file
from jtl.weights.formats.sealed import MANIFEST as NAME
from jtl.weights.formats.sealed import checksum, fault, seal

YOUNG = 2 * 10**9
"""Nanoseconds in which two writes may get the same time, on the coarsest of file systems."""


class NotSaved(RuntimeError):
    """Raised where a checkpoint could not be written, as on a full disk."""


class Damaged(ValueError):
    """Raised for a checkpoint whose files differ from those that were written."""


def write(folder: Path, content: dict[str, Any]) -> None:
    """Seals a folder: checksums all its files, and commits it by one atomic rename.

    A folder without a manifest was never finished: a process may be killed at any moment before the rename.
    """
    body = {**content, "files": {name: list(checksum(folder / name)) for name in _files(folder)}}
    text = json.dumps({"crc32": seal(body), **body}, indent=1)
    replace_file(folder / NAME, text.encode())


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder.

    Raises:
      Damaged: where it is missing, or not the text that was written.
    """
    try:
        body = json.loads((folder / NAME).read_text())
        stored = body.pop("crc32")
    except FileNotFoundError as error:
        raise Damaged(f"{folder / NAME} is missing") from error
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / NAME} is not readable: {error!r}") from error
    if stored != seal(body):
        raise Damaged(f"{folder / NAME} was changed after it was written")
    return body


def verify(folder: Path) -> dict[str, Any]:
    """Reads every file of a sealed folder again; returns the manifest.

    Raises:
      Damaged: naming the first file that is missing, truncated or changed.
    """
    body = read(folder)
    what = fault(folder, body["files"])
    if what is not None:
        raise Damaged(what)
    return body


def stamp(folder: Path) -> dict[Path, tuple[int, ...]] | None:
    """What tells that no file of a folder was written or replaced since: the number, size and times of each.

    None where one is so young that a write after this call may leave its times as they are, or goes away meanwhile,
    and where one is a link, because what a linked folder holds is not looked at.
    """
    try:
        found = {path: path.lstat() for path in folder.rglob("*")}
    except OSError:
        return None
    if any(stat.S_ISLNK(one.st_mode) for one in found.values()):
        return None
    if any(one.st_mtime_ns > time.time_ns() - YOUNG for one in found.values()):
        return None
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for path, one in found.items()}


@functools.cache
def versions() -> dict[str, str]:
    """The versions that a checkpoint is written by; `jtl sources` tells two states of jtl of one version apart."""
    try:
        own = version("jtl")
    except PackageNotFoundError:  # run from a checkout that is not installed
        own = "not installed"
    package, sources = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for path in package.rglob("*.py") if path.is_file()):  # an editor's lock is a broken link
        sources.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    found = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")}
    return found | {"jtl": own, "jtl sources": sources.hexdigest()[:12]}


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith(NAME))

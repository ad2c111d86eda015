"""Replaces a file, or the files of a folder, all at once: a killed process leaves either the old or the new ones."""

import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp


class CannotSwap(OSError):
    """The folder itself cannot be renamed, such as a mount point, or a folder whose parent is read-only."""


def replace_file(path: Path, content: bytes) -> None:
    """Writes a whole file or nothing: into a new file next to it, flushed to the disk, which then takes its name.

    Args:
      path: the path of the file, in a folder that exists.
      content: the whole content.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from jtl.replace import replace_file
      >>> path = Path(tempfile.mkdtemp()) / "x"
      >>> replace_file(path, b"new")
      >>> path.read_bytes()
      b'new'
    """
    fresh = path.with_name(
        f"{path.name[:64]}.{uuid.uuid4().hex}.new"
    )  # of this writer alone: others may write the same
    try:
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def replace_folder(folder: Path, fill: Callable[[Path], None], stale: Collection[str] = ()) -> None:
    """Puts new files into a folder, in one step.

    The files are written into a folder next to it, together with links to the files that stay, and flushed to the disk.
    Then the two folders exchange their names, which Linux and macOS do as one operation. On other systems, and on file
    systems without that operation, the old folder is renamed first: if the process is killed between the two renames,
    the old folder is left next to its place, in `.partial-…`.

    Args:
      folder: a resolved path; created if it does not exist.
      fill: writes the new files into the folder that it is given.
      stale: names of old files that do not stay.

    Raises:
      CannotSwap: if the folder cannot be replaced; what was written is removed again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        apart = Path(mkdtemp(prefix=f".partial-{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise CannotSwap(str(error)) from error
    try:
        new = apart / "new"
        new.mkdir()
        fill(new)
        if folder.is_dir():
            shutil.copymode(folder, new)
            _link(folder, new, stale)
        for place, _, files in os.walk(new):
            for path in (*(Path(place, name) for name in files), Path(place)):
                _flush(path)
        try:
            _into_place(new, folder, apart / "old")
        except OSError as error:
            raise CannotSwap(str(error)) from error
        _flush(folder.parent)
    finally:
        if folder.is_dir() or not (apart / "old").is_dir():
            shutil.rmtree(apart, ignore_errors=True)


def _into_place(new: Path, folder: Path, old: Path) -> None:
    while True:
        if not folder.is_dir():
            with suppress(OSError):  # another process made one meanwhile
                os.rename(new, folder)
                return
        if _exchange(new, folder):
            return
        with suppress(FileNotFoundError):  # another process is between its two renames
            os.rename(folder, old)
        try:
            os.rename(new, folder)
            return
        except OSError:
            if not folder.is_dir():
                os.rename(old, folder)
                raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one operation; False if the system or the file system cannot."""
    paths = [os.fsencode(path) for path in (one, other)]
    try:
        system = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return system.renamex_np(*paths, ctypes.c_uint(2)) == 0
        here = ctypes.c_int(-100)  # AT_FDCWD: paths are absolute
        return system.renameat2(here, paths[0], here, paths[1], ctypes.c_uint(2)) == 0
    except (AttributeError, OSError, TypeError):
        return False


def _link(old: Path, new: Path, stale: Collection[str]) -> None:
    """Links the files that the new folder lacks to those of the old one."""
    for entry in os.scandir(old):
        to = new / entry.name
        if entry.name in stale or (to.exists() and not entry.is_dir(follow_symlinks=False)):
            continue
        if entry.is_dir(follow_symlinks=False):
            if not to.exists():
                to.mkdir()
                shutil.copymode(entry.path, to)
            _link(Path(entry.path), to, ())
        elif entry.is_symlink():
            os.symlink(os.readlink(entry.path), to)
        else:
            try:
                os.link(entry.path, to)
            except OSError:  # a file system without links
                shutil.copy2(entry.path, to)


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    try:
        opened = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders, and no system opens files without permission
        return
    try:
        with suppress(OSError):  # some file systems cannot flush a folder
            os.fsync(opened)
    finally:
        os.close(opened)

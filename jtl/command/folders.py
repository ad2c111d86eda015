"""The location of a run's folder; light, because `jtl --help` imports it."""

import os
from collections.abc import Sequence
from pathlib import Path

from jtl.paths import local


def stem(data: Path) -> str:
    """Returns the name of the data without a suffix; "." and ".." are resolved to the folder that they mean.

    Example:
      >>> stem(Path("pets/photos/cats/..")), stem(Path("reviews.csv"))
      ('photos', 'reviews')
    """
    return Path(os.path.abspath(os.path.expanduser(data))).stem or "data"  # of "/" there is no name


def folder_of(out: Path | None, name: str) -> Path:
    """Returns the run's folder: `--out`, else `runs/` and a name."""
    return Path("runs") / name if out is None else local(out, "--out")


def refuse_among(folder: Path, data: Sequence[Path]) -> None:
    """Refuses a run's folder that lies among the examples, where the next command would take it for a class.

    It may lie next to the folders `train/`, `val/` and `test/` of split data, and hidden folders are ignored.

    Args:
      folder: the run's folder.
      data: folders of examples; tables are ignored.

    Raises:
      ValueError: naming both folders, and one outside the data.
    """
    from jtl.command.source import parts_of

    place = folder.resolve()
    for given in data:
        root = Path(os.path.expanduser(given)).resolve()
        if not root.is_dir() or not place.is_relative_to(root):
            continue
        below, parts = place.relative_to(root).parts, parts_of(root)
        beside = bool(parts) and below[:1] not in [(part.name,) for part in parts.values()]
        if not beside and not any(name.startswith(".") for name in below):
            raise ValueError(
                f"the run's folder {str(folder)!r} lies among the examples of {str(given)!r}, where it would be taken"
                f" for a class: give --out a folder outside, as {str(root.parent / 'runs' / stem(root))!r}"
            )

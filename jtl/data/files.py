"""Image files with labels of any kind, as a table lists them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.arrays import labels_of, names_of
from jtl.data.folder import SUFFIXES
from jtl.data.images import Transform, change_of, images
from jtl.data.pipeline import Dataset
from jtl.paths import local

SHOWN = 10
"""The number of files that a message lists."""


def files(
    paths: Iterable[str | Path],
    y: Any = None,
    *,
    batch_size: int,
    size: int | None = None,
    transform: Transform | None = None,
    mode: str | None = None,
    classes: int | np.integer | Sequence[str] | None = None,
    ignore: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Dataset:
    """Makes a data set of listed image files, which are read on demand.

    Args:
      paths: the paths of the images, such as a column of a table; relative paths start at the working directory.
      y: labels, [files] or [files, ...], as in `arrays`: integers, floats (the targets of `jtl.tasks.regression`), or
        rows of 0 and 1 (`jtl.tasks.multi_label`); None for images without labels.
      batch_size: the number of rows of the global batch.
      size: as in `folder`; give either it or `transform`.
      transform: as in `folder`.
      mode: as in `folder`.
      classes: the number of classes or their names, as in `arrays`.
      ignore: an additional integer label, as in `arrays`.
      seed: the seed of the order and the transform.
      shuffle: whether to use another order in each epoch; False for evaluation.
      drop_last: leave out the last partial batch instead of padding it.
      process_index: see `Dataset`.
      process_count: see `Dataset`.

    Raises:
      FileNotFoundError: for missing files, with their number and the first ten.
      TypeError: for one path in place of a list, or labels that are not numbers.
      ValueError: for no files, a file that is not an image, or labels of another length; for images also as in
        `folder`, for labels as in `arrays`.

    Example:
      >>> import pathlib, tempfile, jtl
      >>> from PIL import Image
      >>> root = pathlib.Path(tempfile.mkdtemp())
      >>> for i in range(3):
      ...     Image.new("RGB", (12, 10)).save(root / f"{i}.png")
      >>> data = jtl.data.files([root / f"{i}.png" for i in range(3)], [0.5, 2.0, 1.0], batch_size=3, size=8)
      >>> data[0]["x"].shape, sorted(data[0]["y"].tolist())
      ((3, 8, 8, 3), [0.5, 1.0, 2.0])
    """
    change, names = change_of(size, transform), names_of(classes)
    if isinstance(paths, str | Path):
        raise TypeError(f"paths is {str(paths)!r}; give a list of paths, or a folder to jtl.data.folder")
    found = tuple(local(path, f"paths[{i}]") for i, path in enumerate(paths))
    if not found:
        raise ValueError("paths is empty; give at least one")
    if lost := [i for i, file in enumerate(found) if not os.path.isfile(file)]:
        shown = "".join(f"\n  paths[{i}]: {str(found[i])!r}" for i in lost[:SHOWN])
        raise FileNotFoundError(
            f"{len(lost)} of the {len(found)} files are not there:{shown}" + "\n  ..." * (len(lost) > SHOWN)
        )
    for i, file in enumerate(found):
        if file.suffix.lower() not in SUFFIXES:
            raise ValueError(f"paths[{i}] is {str(file)!r}, which is not an image file; suffixes are {SUFFIXES}")
    labels = None if y is None else labels_of("y", y, names, ignore)
    if labels is not None and len(labels) != len(found):
        raise ValueError(f"paths and y differ in length: {len(found)} and {len(labels)}")
    source = images(names, found, labels, change, mode)
    return Dataset(source, batch_size, seed, shuffle, drop_last, process_index, process_count)

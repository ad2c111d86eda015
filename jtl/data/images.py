"""Image files as a source: read, resized and cropped on demand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jtl.checked import whole
from jtl.data.content import of_files
from jtl.data.error_notes import noted
from jtl.data.pipeline import Source
from jtl.preprocess import pixels

SHOWN = 5
Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def change_of(size: int | None, transform: Transform | None) -> Transform:
    """The transform of an image: `transform`, or a resize of the short side to `size` and a crop of the middle square.

    Raises:
      ValueError: unless exactly one is given, or for a size that is not an integer of at least 1.
    """
    if (size is None) == (transform is None):
        told = "none is" if size is None else "both are"
        raise ValueError(
            f"give either size or transform, and {told} given: a size in pixels, or a function, for pretrained"
            " weights jtl.preprocess.image.transform(known.preprocessing)"
        )
    if transform is not None:
        return transform
    whole(1, size=size)
    side = size or 0
    return lambda image, rng: pixels.short_side_crop(image, side)


def images(
    classes: tuple[str, ...] | None,
    files: tuple[Path, ...],
    labels: np.ndarray | None,
    transform: Transform,
    mode: str | None,
) -> Source:
    """The source that reads image files.

    Args:
      classes: the names of the labels, if they have any.
      files: the files, at least one.
      labels: [files, ...]; None if there are none.
      transform: the transform of each image; see `change_of`.
      mode: the mode to convert all images to; None requires the number of channels of the first.

    Raises:
      ValueError: for a first file that does not decode, if `mode` is not given.
    """
    return _Images(classes, files, labels, transform, mode, None if mode else pixels.decode(files[0]).shape[2])


@dataclass(frozen=True)
class _Images:
    classes: tuple[str, ...] | None
    files: tuple[Path, ...]
    labels: np.ndarray | None
    transform: Transform
    mode: str | None
    channels: int | None

    def __repr__(self) -> str:
        """A short form, because a notebook would otherwise show everything that a data set holds."""
        if self.labels is None:
            return f"<{len(self.files)} files without labels>"
        if self.classes is None:
            return f"<{len(self.files)} files with labels {self.labels.dtype}{self.labels.shape}>"
        shown = ", ".join(map(repr, self.classes[:SHOWN])) + (", ..." if len(self.classes) > SHOWN else "")
        return f"<{len(self.files)} files of {len(self.classes)} classes: {shown}>"

    @property
    def size(self) -> int:
        return len(self.files)

    @property
    def content(self) -> str:
        return of_files(self.files, self.labels)

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        rows = [self._one(self.files[i], draw) for i, draw in zip(index, draws, strict=True)]
        for row, i in zip(rows, index, strict=True):
            if row.shape != rows[0].shape:
                raise ValueError(
                    f"image {str(self.files[i])!r} became {row.shape}, {str(self.files[index[0]])!r} "
                    f"{rows[0].shape}; transform must give one shape"
                )
        return {"x": np.stack(rows)} if self.labels is None else {"x": np.stack(rows), "y": self.labels[index]}

    def _one(self, file: Path, draw: tuple[int, ...]) -> np.ndarray:
        image = pixels.decode(file, self.mode)
        if self.channels not in (None, image.shape[2]):
            raise ValueError(
                f"image {str(file)!r} has {image.shape[2]} channels, {str(self.files[0])!r} has "
                f"{self.channels}; pass mode='RGB' (or 'L') to convert all"
            )
        with noted(f"image {str(file)!r} was transformed"):
            return np.asarray(self.transform(image, np.random.default_rng(draw)))

"""Class folders of images: `root/ants/1.jpg`, `root/bees/2.jpg`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jtl.data.images import Transform, change_of, images
from jtl.data.pipeline import Dataset, composed, distinct
from jtl.paths import local

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif")
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folders with these names, in upper or lower case, hold these parts of a data set, not its classes."""
LEFT = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""Files that Windows leaves in folders of images, and macOS in archives of them."""


def folder(
    root: str | Path,
    *,
    batch_size: int,
    size: int | None = None,
    transform: Transform | None = None,
    mode: str | None = None,
    classes: Sequence[str] | None = None,
    labels: bool = True,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Dataset:
    """Makes a data set of class folders of images, or of images without labels.

    Args:
      root: the folder of class folders; labels follow their sorted names. Hidden files, and files that operating
        systems leave (`LEFT`), are skipped.
      batch_size: the number of rows of the global batch.
      size: the length to which the short side is resized before the middle square is cropped; or give `transform`, for
        pretrained weights `jtl.preprocess.image.transform(preprocessing)`.
      transform: `(pixels, rng) -> array`, all of one shape; the generator depends only on seed, epoch and row. Its
        errors get a note that names the file.
      mode: "L", "RGB" or "RGBA" converts every image; None requires all images to have the same number of channels.
      classes: the class names to expect, in the order of labels, such as those of the training set. A class without
        images need not have a folder.
      labels: False to read all images in the folder and its subfolders, whatever their names, into batches without `y`.
      seed: the seed of the order and the transform.
      shuffle: whether to use another order in each epoch; False for evaluation.
      drop_last: leave out the last partial batch instead of padding it.
      process_index: see `Dataset`.
      process_count: see `Dataset`.

    Raises:
      FileNotFoundError: if `root` is not a folder.
      ValueError: at once for an unexpected class folder, for an empty one if `classes` is not given, and for a file
        that is not an image or not in a class folder; at reading for a file that does not decode or has another number
        of channels. The file is named.

    Example:
      >>> import pathlib, tempfile, jtl
      >>> from PIL import Image
      >>> root = pathlib.Path(tempfile.mkdtemp())
      >>> for name in ("ant", "bee"):
      ...     (root / name).mkdir()
      ...     Image.new("RGB", (12, 10)).save(root / name / "1.png")
      >>> data = jtl.data.folder(root, batch_size=2, size=8)
      >>> data.classes, data[0]["x"].shape
      (('ant', 'bee'), (2, 8, 8, 3))
    """
    change = change_of(size, transform)
    if labels:
        names, files, y = scan(local(root, "root"), classes)
    elif classes is not None:
        raise ValueError(f"classes={list(classes)} with labels=False: images without labels have no classes")
    elif not local(root, "root").is_dir():
        raise FileNotFoundError(f"{str(root)!r} is not a folder of images")
    else:
        names, files, y = None, tuple(inside(local(root, "root"))), None
    if not files:
        raise ValueError(f"{str(root)!r} has no images" + ": the folders of all classes are empty" * labels)
    return Dataset(
        images(names, files, y, change, mode), batch_size, seed, shuffle, drop_last, process_index, process_count
    )


def scan(
    root: Path, classes: Sequence[str] | None = None, suffixes: Sequence[str] = SUFFIXES, what: str = "image"
) -> tuple[tuple[str, ...], tuple[Path, ...], np.ndarray]:
    """(class names, files, labels int32 [files]) of a folder of class folders; see `folder` for what it refuses.

    Args:
      root: the folder.
      classes: the names to expect.
      suffixes: the allowed suffixes of files.
      what: the word for such a file in messages.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{str(root)!r} is not a folder; it must hold one folder of {what}s per class")
    expected = None if classes is None else distinct(classes)
    # Systems spell é as one character or as two, and sort by either: names in NFC, sorted, are the same everywhere.
    entries = sorted(visible(root), key=lambda entry: composed(entry.name))
    places = {composed(entry.name): entry for entry in entries if entry.is_dir()}
    found = list(places)
    lost = [entry for entry in entries if entry.is_dir() and places[composed(entry.name)] is not entry]
    if lost:
        raise ValueError(
            f"{str(root)!r} holds the class {composed(lost[0].name)!r} in two folders, whose names are spelled with"
            f" other characters, {lost[0].name!a} and {places[composed(lost[0].name)].name!a}: move the"
            f" {what}s into one of them"
        )
    parts = [name for name in found if name.lower() in PARTS]
    if expected is None and parts and len(parts) == len(found):
        raise ValueError(f"{str(root)!r} holds the parts {parts} of a data set: give one, as {str(root / parts[0])!r}")
    if not found and any(entry.suffix.lower() in SUFFIXES for entry in entries):
        raise ValueError(
            f"{str(root)!r} holds images and no folders: put the images of each class into a folder of its own, and"
            " give the folder that holds these; images without labels are read with labels=False"
        )
    for entry in entries:
        if not entry.is_dir():
            raise ValueError(f"{str(entry)!r} lies in no class folder; move it into one of {found}")
        if expected is not None and composed(entry.name) not in expected:
            raise ValueError(f"{str(entry)!r} is a class that is not expected; classes are {list(expected)}")
    names = tuple(found) if expected is None else expected
    if not names:
        raise ValueError(f"{str(root)!r} has no class folders")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if name not in found:  # some expected classes may be absent: a test set need not have all
            continue
        inside = visible(places[name])
        if not inside and expected is None:
            raise ValueError(f"class folder {str(places[name])!r} is empty")
        for file in inside:
            _refuse_lost(file)
            if file.is_dir():
                raise ValueError(
                    f"{str(file)!r} is a folder within the class folder {str(places[name])!r}: move its {what}s up, or"
                    f" give {str(places[name])!r} if its folders are the classes"
                )
            if file.suffix.lower() not in suffixes or not file.is_file():
                article = "an" if what[0] in "aeiou" else "a"
                raise ValueError(f"{str(file)!r} is not {article} {what} file; suffixes are {tuple(suffixes)}")
        files += inside
        labels += [label] * len(inside)
    return names, tuple(files), np.array(labels, np.int32)


def inside(place: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files with these suffixes in a folder and its subfolders, in order, without those that `scan` skips.

    Raises:
      ValueError: for such a link to a file that is not there.
    """
    found = [file for file in below(place) if file.suffix.lower() in suffixes]
    for file in found:
        _refuse_lost(file)
    return found


def below(place: Path) -> list[Path]:
    """The files in a folder and its subfolders, also linked ones, in order, without those that `scan` skips."""
    return sorted(_below(place, ()))


def _below(place: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = place.resolve()
    if here in above:  # a link to a folder that holds it
        return
    for entry in visible(place):
        if entry.is_dir():
            yield from _below(entry, (*above, here))
        elif entry.is_file() or entry.is_symlink():
            yield entry


def _refuse_lost(file: Path) -> None:
    if file.is_symlink() and not file.exists():
        raise ValueError(f"{str(file)!r} is a link to {str(file.readlink())!r}, which is not there")


def visible(place: Path) -> list[Path]:
    """The entries of a folder in order, without those that `scan` skips."""
    return [entry for entry in sorted(place.iterdir()) if _seen(entry.name)]


def _seen(name: str) -> bool:
    return not name.startswith(".") and name not in LEFT

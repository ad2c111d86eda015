"""Checks that image files can be read; all errors are reported at once, before anything is computed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jtl.preprocess import pixels

SHOWN = 10
END = b"\xff\xd9"
"""The last bytes of a complete JPEG."""


def refuse_broken(files: Sequence[Path]) -> None:
    """Refuses images that cannot be read. Headers and checksums are read, and pixels only if those raise a doubt.

    Args:
      files: the image files.

    Raises:
      ValueError: naming the first ten broken images with their errors, and the number of broken images.
    """
    with ThreadPoolExecutor() as pool:  # pixels are decoded outside of Python's lock
        wrong = [why for why in pool.map(_checked, dict.fromkeys(files)) if why is not None]
    if len(wrong) == 1:
        raise ValueError(wrong[0])
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        lines = "".join(f"\n  {line}" for line in [*wrong[:SHOWN], *more])
        raise ValueError(f"{len(wrong)} of {len(files)} images cannot be read; remove or repair them:{lines}")


def _checked(file: Path) -> str | None:
    """Returns why an image cannot be read; None if it can."""
    return _wrong(file) if _doubtful(file) else None


def _doubtful(file: Path) -> bool:
    """Returns whether an image may be unreadable; `_wrong` decides, because readers tolerate some damage."""
    from PIL import Image as pil

    try:
        with pil.open(file, formats=pixels.FORMATS) as image:
            jpeg, fits = image.format in ("JPEG", "MPO"), image.width * image.height <= pixels.MAX_PIXELS
            kept = not image.mode.startswith(("I", "F"))
            image.verify()  # reads the checksums of a PNG, and nothing of a JPEG
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError, pil.DecompressionBombWarning):
        return True
    return not fits or not kept or (jpeg and not _ended(file))


def _ended(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(-len(END), 2)
        return opened.read() == END


def _wrong(file: Path) -> str | None:
    """Decodes an image, and returns why that fails; None if it succeeds."""
    try:
        pixels.decode(file, "RGB")
    except ValueError as error:
        return str(error)
    return None

"""Whether files of images can be read, told of all at once and before anything is computed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jtl.preprocess import pixels

SHOWN = 10
END = b"\xff\xd9"
"""The last bytes of a whole JPEG."""


def refuse_broken(files: Sequence[Path]) -> None:
    """Refuses images that cannot be read. Headers and checksums are read, and pixels only where these are in doubt.

    Args:
      files: of images.

    Raises:
      ValueError: naming the first ten of them, with what is wrong, and how many there are.
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
    """Why an image cannot be read; None where it can."""
    return _wrong(file) if _doubtful(file) else None


def _doubtful(file: Path) -> bool:
    """Whether an image may not be read: it is for `_wrong` to say, since readers forgive some damage."""
    from PIL import Image as pil

    try:
        with pil.open(file, formats=pixels.FORMATS) as image:
            jpeg, fits = image.format in ("JPEG", "MPO"), image.width * image.height <= pixels.MAX_PIXELS
            kept = not image.mode.startswith(("I", "F"))
            image.verify()  # reads the checksums of PNG, and nothing of JPEG
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError, pil.DecompressionBombWarning):
        return True
    return not fits or not kept or (jpeg and not _ended(file))


def _ended(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(-len(END), 2)
        return opened.read() == END


def _wrong(file: Path) -> str | None:
    """Why an image is not read; None where it is."""
    try:
        pixels.decode(file, "RGB")
    except ValueError as error:
        return str(error)
    return None

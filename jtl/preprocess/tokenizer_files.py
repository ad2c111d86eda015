"""The files of a tokenizer, which come with the weights and are saved with the network."""

import shutil
from pathlib import Path
from typing import NamedTuple

from jtl.weights.formats.hub import TOKENIZER_FILES as FILES

_VOCABULARIES = {"tokenizer.json", "vocab.txt", "vocab.json", "spiece.model"}


class Vocabulary(NamedTuple):
    """The tokenizer of a network as files, for `jtl.preprocess.text.tokenizer` and for transformers.

    Args:
      folder: the folder of the files, which are read when they are needed.
      files: the names of the files.
    """

    folder: Path
    files: tuple[str, ...]


def vocabulary(folder: Path) -> Vocabulary | None:
    """Returns the tokenizer's files in a folder; None if it holds no vocabulary."""
    files = tuple(name for name in FILES if (folder / name).is_file())
    return Vocabulary(folder, files) if _VOCABULARIES & set(files) else None


def copy(source: Vocabulary, folder: Path) -> None:
    """Copies the files into another folder.

    Raises:
      FileNotFoundError: if a file is no longer where it was when the network was loaded.
    """
    gone = [name for name in source.files if not (source.folder / name).is_file()]
    if gone:
        raise FileNotFoundError(
            f"{', '.join(gone)} of the tokenizer that came with the weights is no longer in {source.folder}: put it "
            "back, or save the network without it, pretrained._replace(tokenizer=None)"
        )
    for name in source.files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.folder / name, folder / name)

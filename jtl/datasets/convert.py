"""Converts the authors' files to the files that the recipes read."""

import bz2
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

QUESTIONS = ("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM")
"""TREC's coarse classes in the order of labels: descriptions, entities, abbreviations, people, places, numbers."""


def usps(files: Sequence[Path], folder: Path) -> None:
    """Writes `usps.npz`, uint8 images [rows, 16, 16] and labels 0 to 9, from LIBSVM's text of numbers in [-1, 1]."""
    arrays = {}
    for split, file in zip(("train", "test"), files, strict=True):
        rows = [line.split() for line in bz2.decompress(file.read_bytes()).decode("ascii").splitlines()]
        x = np.zeros((len(rows), 256))
        for image, row in zip(x, rows, strict=True):
            for entry in row[1:]:
                place, value = entry.split(":")
                image[int(place) - 1] = float(value)
        arrays[f"x_{split}"] = np.rint((x + 1) / 2 * 255).astype(np.uint8).reshape(-1, 16, 16)
        arrays[f"y_{split}"] = np.array([int(float(row[0])) - 1 for row in rows], np.uint8)
    np.savez_compressed(folder / "usps.npz", **arrays)


def trec(files: Sequence[Path], folder: Path) -> None:
    """Writes `text/trec/train.tsv` and `test.tsv`, one question and its coarse class per line, from Latin-1 files."""
    place = folder / "text" / "trec"
    place.mkdir(parents=True, exist_ok=True)
    for split, file in zip(("train", "test"), files, strict=True):
        lines = []
        for line in file.read_text("latin-1").splitlines():
            label, _, question = line.partition(" ")
            lines.append(f"{question.strip()}\t{QUESTIONS.index(label.split(':')[0])}\n")
        (place / f"{split}.tsv").write_text("".join(lines), "utf-8")


def hymenoptera(files: Sequence[Path], folder: Path) -> None:
    """Writes `hymenoptera/train` and `val`, with folders of ants and bees, from the tutorial's zip."""
    with zipfile.ZipFile(files[0]) as archive:
        for name in archive.namelist():
            parts = Path(name).parts
            if len(parts) == 4 and parts[1] in ("train", "val") and not parts[3].startswith("."):
                place = folder / "hymenoptera" / Path(*parts[1:])
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))


def spoken_digits(files: Sequence[Path], folder: Path) -> None:
    """Writes `speech/spoken_digits.zip` with only the recordings, from the repository's zip."""
    place = folder / "speech"
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(files[0]) as archive, zipfile.ZipFile(place / "spoken_digits.zip", "w") as out:
        for name in sorted(archive.namelist()):
            if Path(name).parent.name == "recordings" and name.endswith(".wav"):
                out.writestr(Path(name).name, archive.read(name))


def cifar_resnet(files: Sequence[Path], folder: Path) -> None:
    """Copies the weights into `cifar_resnet/`, unchanged."""
    place = folder / "cifar_resnet"
    place.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, place / file.name)

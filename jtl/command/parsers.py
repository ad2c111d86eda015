"""The options of `jtl features` and `jtl rank`; light, because `jtl --help` reads it."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def features(
    inputs: Positional[tuple[str, ...]],
    /,
    weights: str,
    out: Path = Path("features.npz"),
    arch: str | None = None,
    size: int | None = None,
    text: str | None = None,
    layers: tuple[str, ...] = (),
    cache: Path | None = None,
) -> tuple[str, tuple]:
    """The features of images, sounds or texts by pretrained weights, as an .npz.

    Args:
      inputs: files or folders of images or sounds, labelled or not; with --text one table.
      weights: as of `jtl finetune`.
      out: the file to write.
      arch: as of `jtl finetune`.
      size: as of `jtl finetune`.
      text: the column of a table of texts.
      layers: features of the backbone by name, averaged over positions, side by side; none for what a head reads.
      cache: a folder that keeps the features of each batch: a killed command resumes, and a second one on the same
        weights, preprocessing and inputs does not run the network again.
    """
    return "features", (inputs, weights, out, arch, size, text, layers, cache)


def rank(
    data: Annotated[
        Positional[Path], arg(help="a folder of class folders, or a .csv, .tsv, .jsonl or .parquet of texts")
    ],
    models: Positional[tuple[str, ...]],
    /,
    by: Literal["logme", "h_score", "transrate", "nce", "leep"] = "logme",
    text: str = "text",
    label: str = "label",
    size: int | None = None,
    per_class: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> tuple[str, tuple]:
    """Which pretrained weights suit labelled data: LogME, H-score, TransRate, NCE and LEEP, without training.

    Args:
      data: of split data `train` is used.
      models: weight files, folders, `hf:org/name` or `timm:name`.
      by: the score that orders the table.
      text: a table's column of texts.
      label: a table's column of labels.
      size: side of images in pixels; None: each network's own.
      per_class: at most this many examples of each class, drawn by the seed.
      seed: of that draw.
      cache: as of `jtl features`.
    """
    return "rank", (data, models, by, text, label, size, per_class, seed, cache)

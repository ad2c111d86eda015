"""What follows the names of some commands; light, because `jtl --help` reads it. Each gives its name and its values."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from jtl.command.adapt_settings import AdaptSettings
from jtl.command.few_settings import FewShot
from jtl.command.settings import Settings

Run = Annotated[Positional[Path], arg(help="the folder of a run of `jtl finetune` or `jtl adapt`, or of jtl.save")]


@dataclasses.dataclass(frozen=True)
class Finetune(Settings):
    """The settings as they are read."""

    def __post_init__(self) -> None:
        """Checks nothing: `checked` does, outside tyro, which would tell an error by a name of its own."""


@dataclasses.dataclass(frozen=True)
class Adapt(AdaptSettings):
    """The settings as they are read."""

    def __post_init__(self) -> None:
        """As above."""


@dataclasses.dataclass(frozen=True)
class Few(FewShot):
    """The settings as they are read."""

    def __post_init__(self) -> None:
        """As above."""


def finetune(settings: OmitArgPrefixes[Finetune]) -> tuple[str, tuple]:  # noqa: D103  (set below)
    return "finetune", (settings,)


def adapt(settings: OmitArgPrefixes[Adapt]) -> tuple[str, tuple]:  # noqa: D103  (set below)
    return "adapt", (settings,)


def adapt_few(settings: OmitArgPrefixes[Few]) -> tuple[str, tuple]:  # noqa: D103  (set below)
    return "adapt-few", (settings,)


finetune.__doc__, adapt.__doc__, adapt_few.__doc__ = Settings.__doc__, AdaptSettings.__doc__, FewShot.__doc__


def checked(settings: Any) -> Any:
    """The settings that tyro has read of `finetune`, `adapt` or `adapt-few`, after the command's own checks.

    Raises:
      ValueError: as `Settings`, `AdaptSettings` and `FewShot` do.
    """
    kind = {Finetune: Settings, Adapt: AdaptSettings, Few: FewShot}[type(settings)]
    return kind(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})


def sweep(
    out: Positional[Path], /, grid: tuple[str, ...], by: str | None = None, low: bool = False
) -> tuple[str, tuple]:
    """Run a command over a grid of options and rank the runs: `jtl sweep OUT --grid ... -- adapt SOURCE TARGET ...`.

    What follows `--` is `adapt`, `finetune` or `train` with its own words, without the options of the grid. Runs that
    differ only in `seed` are ranked by their mean. A sweep that was stopped goes on with the same words. A run that
    fails does not end it: it ranks last, and the exit status is 1.

    Args:
      out: the folder of the sweep, with one of each run.
      grid: options and their values, as `method=mcc,dann seed=0,1,2`, of a flag `balanced=true,false`.
      by: the number that ranks; None: the score that `jtl adapt` watches, or the validation accuracy of `jtl finetune`.
      low: a low number is good; it is known of the scores of `jtl adapt`.
    """
    return "sweep", (out, grid, by, low)


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
    file: str | None = None,
) -> tuple[str, tuple]:
    """The features of images, sounds or texts by pretrained weights, as an .npz.

    Args:
      inputs: files or folders of images or sounds, labelled or not; with --text or --file one table.
      weights: as of `jtl finetune`.
      out: the file to write.
      arch: as of `jtl finetune`.
      size: as of `jtl finetune`.
      text: the column of a table of texts.
      layers: features of the backbone by name, averaged over positions, side by side; none for what a head reads.
      cache: a folder that keeps the features of each batch: a killed command resumes, and a second one on the same
        weights, preprocessing and inputs does not run the network again.
      file: the column of the paths of a table of images or sounds.
    """
    return "features", (inputs, weights, out, arch, size, text, layers, cache, file)


def rank(
    data: Annotated[
        Positional[Path], arg(help="a folder of class folders, or a .csv, .tsv, .jsonl or .parquet of texts or files")
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
    file: str | None = None,
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
      file: as of `jtl finetune`.
    """
    return "rank", (data, models, by, text, label, size, per_class, seed, cache, file)


def export(
    run: Run, out: Positional[Path | None] = None, /, format: Literal["hf", "timm", "torchvision", "jtl"] = "hf"
) -> tuple[str, tuple]:
    """The network of a run in the files of another library.

    Args:
      run: the folder of a run of `jtl finetune` or `jtl adapt`, or one that `jtl.save` wrote.
      out: the folder to write; None: `export-FORMAT` in that of the run.
      format: transformers', timm's, torchvision's, or jtl's own.
    """
    return "export", (run, out, format)

"""The arguments and the help of the commands; light, because `jtl --help` imports it.

A function's parameters are the arguments of a command; `jtl.cli` passes them to its action by name.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from jtl.command.adapt_settings import AdaptSettings
from jtl.command.few_settings import FewShot
from jtl.command.settings import Settings

Which = Annotated[
    Positional[str],
    arg(metavar="RECIPE", help="a recipe's name (jtl train --help lists them), or the path of a .py file"),
]
Some = Annotated[Positional[tuple[str, ...]], arg(metavar="[INPUT ...]")]
Where = Annotated[
    Positional[Path],
    arg(
        metavar="RUN",
        help="the folder of a run of `jtl finetune`, `jtl adapt` or `jtl adapt-few`, as runs/photos; one of jtl.save;"
        " or a recipe's checkpoints, as runs/digits/checkpoints",
    ),
]


@dataclasses.dataclass(frozen=True)
class Finetune(Settings):
    """The settings of one run."""

    def __post_init__(self) -> None:
        """Checks nothing: `checked` does so outside tyro, which would report an error under a name of its own."""


@dataclasses.dataclass(frozen=True)
class Adapt(AdaptSettings):
    """The settings of one run."""

    def __post_init__(self) -> None:
        """Checks nothing, like `Finetune`."""


@dataclasses.dataclass(frozen=True)
class Few(FewShot):
    """The settings of one run."""

    def __post_init__(self) -> None:
        """Checks nothing, like `Finetune`."""


def demo() -> None:
    """Transfer learning on real handwritten digits, three ways, in a few minutes."""


def train(recipe: Which) -> None:
    """Run a recipe; `jtl train RECIPE --help` lists its options."""


def finetune(settings: OmitArgPrefixes[Finetune]) -> None:
    """Has the docstring of `Settings`, set below."""


def adapt(settings: OmitArgPrefixes[Adapt]) -> None:
    """Has the docstring of `AdaptSettings`, set below."""


def adapt_few(settings: OmitArgPrefixes[Few]) -> None:
    """Has the docstring of `FewShot`, set below."""


finetune.__doc__, adapt.__doc__, adapt_few.__doc__ = Settings.__doc__, AdaptSettings.__doc__, FewShot.__doc__


def checked(settings: Any) -> Any:
    """Returns the settings that tyro read for `finetune`, `adapt` or `adapt-few`, checked by the command itself.

    Raises:
      ValueError: as `Settings`, `AdaptSettings` and `FewShot` do.
    """
    kind = {Finetune: Settings, Adapt: AdaptSettings, Few: FewShot}[type(settings)]
    return kind(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})


def sweep(
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    /,
    grid: tuple[str, ...],
    by: str | None = None,
    low: bool = False,
) -> None:
    """Run a command over a grid of options and rank the runs: `jtl sweep OUT --grid ... -- adapt SOURCE TARGET ...`.

    After `--` give `adapt`, `finetune` or `train` with its arguments, without the options of the grid. Runs that differ
    only in `seed` are ranked by their mean. To resume a sweep that was stopped, repeat the same command. A run that
    fails does not end the sweep: it ranks last, and the exit status is 1.

    Args:
      out: the folder of the sweep; each run has a subfolder in it.
      grid: options and their values, such as `method=mcc,dann seed=0,1,2`; for a flag, `balanced=true,false`.
      by: the number that ranks the runs; None: the score that `jtl adapt` watches, or the validation accuracy (of
        numbers, the RMSE) of `jtl finetune`.
      low: lower is better; set automatically for the scores of `jtl adapt` and the errors of `jtl finetune`.
    """


def features(
    inputs: Some,
    /,
    weights: str,
    out: Path = Path("features.npz"),
    arch: str | None = None,
    size: int | None = None,
    text: str | None = None,
    layers: tuple[str, ...] = (),
    cache: Path | None = None,
    file: str | None = None,
) -> None:
    """Extract features of images, sounds or texts with pretrained weights, into an .npz file.

    Args:
      inputs: files or folders of images or sounds, labelled or not; with --text or --file, one table.
      weights: a weight file, a folder, a run's folder, `hf:org/name` or `timm:name`.
      out: the file to write.
      arch: see `jtl finetune`.
      size: see `jtl finetune`.
      text: the column of texts, for a table of texts.
      layers: names of backbone features, averaged over positions and concatenated; by default the features that the
        head reads.
      cache: a folder that keeps the features of each batch: a killed command resumes, and a second one on the same
        weights, preprocessing and inputs does not run the network again.
      file: the column of paths, for a table of images or sounds.
    """


def rank(
    data: Annotated[
        Positional[Path],
        arg(metavar="DATA", help="a folder of class folders, or a .csv, .tsv, .jsonl or .parquet of texts or files"),
    ],
    models: Annotated[Positional[tuple[str, ...]], arg(metavar="[WEIGHTS ...]")],
    /,
    by: Literal["logme", "h_score", "transrate", "nce", "leep"] = "logme",
    text: str = "text",
    label: str = "label",
    size: int | None = None,
    per_class: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    file: str | None = None,
) -> None:
    """Rank pretrained weights for labelled data by LogME, H-score, TransRate, NCE and LEEP, without training.

    Args:
      data: if the data are split, `train` is used.
      models: weight files, folders, `hf:org/name` or `timm:name`.
      by: the score that orders the table.
      text: the column of texts in a table.
      label: the column of labels in a table.
      size: side of the images in pixels; None: each network's own.
      per_class: use at most this many examples of each class, drawn by the seed.
      seed: the seed of that draw.
      cache: see `jtl features`.
      file: see `jtl finetune`.
    """


def export(
    run: Where,
    out: Annotated[Positional[Path | None], arg(metavar="[OUT]")] = None,
    /,
    recipe: Path | None = None,
    format: Literal["hf", "timm", "torchvision", "jtl"] = "hf",
) -> None:
    """Export the network of a run in the format of another library.

    Args:
      run: see `jtl eval`.
      out: the folder to write; None: `export-FORMAT` in the run's folder.
      recipe: the .py file of the run's recipe, whose code is executed; not needed for jtl's own recipes.
      format: transformers', timm's, torchvision's, or jtl's own.
    """


def evaluate(
    run: Where,
    data: Annotated[Positional[Path | None], arg(metavar="[DATA]")] = None,
    /,
    recipe: Path | None = None,
    text: str | None = None,
    label: str | None = None,
    file: str | None = None,
) -> None:
    """Evaluate a saved network, or a recipe's checkpoint, on labelled data; the latter without any on its own test set.

    Args:
      run: the folder of a run of `jtl finetune`, `jtl adapt` or `jtl adapt-few`, a folder that `jtl.save` wrote, or the
        folder of a recipe's checkpoints.
      data: a folder of class folders, or a table.
      recipe: the .py file of the run's recipe, whose code is executed; not needed for jtl's own recipes.
      text: the column of texts in a table; by default the run's column, else "text".
      label: the column of labels in a table; by default the run's column, else "label".
      file: the column of paths in a table of images or sounds; by default the run's column.
    """


def predict(
    run: Where,
    inputs: Some,
    /,
    top: int | None = None,
    recipe: Path | None = None,
    csv: Path | None = None,
    text: str | None = None,
    file: str | None = None,
) -> None:
    """Predict the classes or numbers of images, sounds or texts with a saved network or a recipe's checkpoint.

    Args:
      run: see `jtl eval`.
      inputs: files or folders of images or sounds, or tables of these; for a text network, texts, files with one text
        per line, or tables.
      top: how many classes to name for each input; None: three. Not for a network of numbers.
      recipe: the .py file of the run's recipe, whose code is executed; not needed for jtl's own recipes.
      csv: also write the shares (probabilities) of all classes, or the predicted numbers, to this file, with the other
        columns of a table; not for a recipe.
      text: the column of texts in tables; by default the run's column, else "text".
      file: the column of paths in tables of images or sounds; by default the run's column.
    """


def describe(recipe: Which) -> None:
    """Print a recipe's network as a table: every parameter, whether it is trained, and its learning rate."""


def models(pattern: Annotated[Positional[str], arg(metavar="[PATTERN]")] = "*", /) -> None:
    """List the networks whose weights jtl reads, with sizes, costs and naming schemes.

    Args:
      pattern: a pattern of names or families, such as "vit_*" or "resnet"; the default lists all networks.
    """


def inspect(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
    rows: int = 40,
    within: str | None = None,
    prefix: str = "",
) -> None:
    """Print the tensors of a weight file, and the network family whose naming scheme they follow.

    Args:
      file: a weight file, or a folder with one.
      rows: how many tensors to list.
      within: the path of the dict to inspect, for a PyTorch file with several dicts of tensors.
      prefix: the prefix of the names of the network's tensors.
    """

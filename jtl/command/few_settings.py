"""The settings for learning new classes from a few examples; light, because `jtl --help` imports it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from jtl.command.folders import folder_of, stem
from jtl.command.run_settings import RunSettings


@dataclass(frozen=True)
class FewShot(RunSettings):
    """Learn new classes from a few labelled examples of each, in seconds; `jtl predict` then names them.

    An example is assigned the class whose mean features are at the smallest angle; with `--steps` the network is first
    fine-tuned on the examples (P>M>F). The report shows the prediction of each example from the others.

    Args:
      weights: a weight file, a folder, `hf:org/name`, `timm:name`, or the folder of a run of `jtl finetune`.
      support: the labelled examples: a folder of class folders, or a .csv, .tsv, .jsonl or .parquet of texts
        or files.
      query: files or folders of images or sounds, or texts, whose predictions the report shows.
      out: the run's folder; None: `runs/`, the name of the support set, and `-few`.
      steps: fine-tuning steps on the support set, with random flips and crops; images only. They may reduce the
        accuracy: a note says how many examples of each half of the support set are classified right from the other
        half, without and with the steps.
      learning_rate: the learning rate of fine-tuning, with Adam.
      text: the column of texts in tables, both of the support set and of queries.
      label: the column of the labels of a table.
      file: the column of the paths of images or sounds, if the support set is a table of files.
      arch: the network's name, if the weight file does not give it and its tensor names fit several networks.
      size: side of the images in pixels; None: the weights' own.
      seed: the seed of fine-tuning.
    """

    weights: Annotated[
        Positional[str],
        arg(metavar="WEIGHTS", help="a weight file, a folder, hf:org/name, timm:name, or a run's folder"),
    ]
    support: Path
    query: tuple[str, ...] = ()
    out: Path | None = None
    steps: int = 0
    learning_rate: float = 1e-4
    text: str = "text"
    label: str = "label"
    file: str | None = None
    arch: str | None = None
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size}: give at least 1")
        if self.steps < 0:
            raise ValueError(f"steps={self.steps}: give 0 or more")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return folder_of(self.out, f"{stem(self.support)}-few")

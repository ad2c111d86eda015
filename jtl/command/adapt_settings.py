"""The settings of one adaptation between two folders or tables; light, because `jtl --help` imports it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from tyro.conf import Positional, arg

from jtl.command.folders import folder_of, stem
from jtl.command.run_settings import RunSettings

Method = Literal[
    "source", "dann", "cdan", "cdan_e", "mcc", "coral", "mmd", "jmmd", "sliced_wasserstein", "afn", "bnm", "im",
    "atdoc_nc", "mcd", "ada_bn", "shot",
]  # fmt: skip
Watch = Literal[
    "im", "bnm", "snd", "clustering", "certainty", "diversity", "source_accuracy", "reverse", "iw_risk", "dev", "devn",
    "mixval", "oracle",
]  # fmt: skip
LOW = ("iw_risk", "dev", "devn")
"""The scores for which lower is better."""


@dataclass(frozen=True)
class AdaptSettings(RunSettings):
    """Adapt pretrained weights from a labelled folder or table to an unlabelled one; writes a report.

    The checkpoint is chosen by a score that reads no label of the target. If the source has no folders `train/`, `val/`
    and `test/`, it is split by `seed` within each class; training uses the whole target, or its `train/`.

    Args:
      source: see the data of `jtl finetune`.
      target: a folder of images or sounds, in class folders or not; or a table of texts or files; or a folder with
        `train/` and `test/`.
      weights: see `jtl finetune`.
      method: "source" is fine-tuning without the target, the baseline.
      out: the run's folder; None: `runs/` and the names of both domains and of the method.
      weight: the weight of the alignment loss; None: 1, but 0.05 for afn, 0.1 for atdoc_nc, and 0.3 for the
        pseudo-labels of shot.
      watch: the score that chooses the checkpoint. The methods im, bnm and shot maximise "im" or "bnm" themselves, so
        these scores cannot compare them with other methods. "mixval" is for images and sounds. "oracle" is the accuracy
        by the target's labels: it shows the result of a perfect choice, and the report says that labels were used.
      labelled: add a table of the accuracy on the target, whose folders or labels must then name classes of the source.
      ways: what is trained: the last stage and the head, or everything.
      text: the column of the texts of a table.
      label: the column of the labels of a table.
      file: see `jtl finetune`; one domain may be a table of files and the other a folder.
      arch: see `jtl finetune`.
      size: side of the images in pixels; None: the weights' own.
      steps: training steps; None: ten epochs of the larger domain, but at least 50 steps.
      batch: examples of each domain per step.
      learning_rate: the peak for the backbone; the head and critics use ten times as much.
      scored: how many examples of the target, drawn at random, the score reads.
      seed: the seed of the split and of all other randomness.
      devices: see `jtl finetune`.
    """

    source: Annotated[
        Positional[Path],
        arg(metavar="SOURCE", help="a folder of class folders, or a table of texts or files with labels"),
    ]
    target: Annotated[
        Positional[Path], arg(metavar="TARGET", help="a folder, or a table of texts or files; labels are not needed")
    ]
    weights: str
    method: Method
    out: Path | None = None
    weight: float | None = None
    watch: Watch = "clustering"
    labelled: bool = False
    ways: Literal["last", "all"] = "last"
    text: str = "text"
    label: str = "label"
    file: str | None = None
    arch: str | None = None
    size: int | None = None
    steps: int | None = None
    batch: int = 32
    learning_rate: float = 1e-4
    scored: int = 1000
    seed: int = 0
    devices: int | None = None

    def __post_init__(self) -> None:
        self.check()
        for name, kind in (("method", Method), ("watch", Watch), ("ways", Literal["last", "all"])):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}: there are {', '.join(get_args(kind))}")
        for name in ("size", "steps", "batch", "scored", "devices"):
            value = getattr(self, name)
            if value is not None and value < (2 if name in ("batch", "scored") else 1):
                raise ValueError(f"{name}={value}: give at least {2 if name in ('batch', 'scored') else 1}")
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise ValueError(f"weight={self.weight}: give a number above zero, or --method source for none")
        if self.weight is not None and self.method in ("source", "mcd", "ada_bn"):
            raise ValueError(f"weight={self.weight}: the method {self.method!r} has no weight")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return folder_of(self.out, f"{stem(self.source)}-{stem(self.target)}-{self.method}")

    @property
    def oracle(self) -> bool:
        """Whether the target's labels choose the checkpoint."""
        return self.watch == "oracle"

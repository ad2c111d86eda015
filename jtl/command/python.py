"""The commands as Python functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jtl.command.number_scores import NumberScores
    from jtl.command.scores import Scores


@dataclass(frozen=True)
class _Saved:
    """The saved network of a finished run."""

    folder: Path

    def predict(self, inputs: Sequence[str | Path]) -> list[dict[str, float]]:
        """Predicts the probability of each class, by name, for each example; or a number, by the name of its column.

        Args:
          inputs: files or folders of images or sounds; for a text network, texts or files of texts, one per line; or
            tables with the column that the run was trained on.
        """
        from jtl.command import inference

        found = inference.predict(self.folder / "model", [str(one) for one in inputs])
        return [dict(zip(found.classes, map(float, row), strict=True)) for row in found.values]

    def export(self, out: str | Path, format: Literal["hf", "timm", "torchvision", "jtl"] = "hf") -> None:
        """Writes the network in the file format of another library."""
        from jtl.command import inference

        inference.export(self.folder / "model", Path(out), format)


@dataclass(frozen=True)
class Run(_Saved):
    """A run of `finetune_files`.

    Args:
      folder: the run's folder, with `model/`, `report.html`, `run.json`, and the files that training wrote.
      validation: scores on examples that the network was not fitted on; `run.json` says which. They have `accuracy`,
        `by_class()`, `matrix` and `mistakes()`; with `task="regression"`, `rmse`, `mae`, `r2`, `spearman`, `predicted`
        and `worst()`.
      test: scores on the test examples, which were used for no choice.
      notes: notes for the user about the data and the weights.
    """

    validation: "Scores | NumberScores"
    test: "Scores | NumberScores"
    notes: tuple[str, ...]


def finetune_files(
    data: str | Path,
    weights: str | Path,
    out: str | Path | None = None,
    *,
    say: Callable[[str], Any] = print,
    **settings: Any,
) -> Run:
    """Fine-tunes pretrained weights on a folder or a table, like the command `jtl finetune`; writes a report.

    Args:
      data: a folder of class folders of images or sounds, or a table of texts, or, with `file`, a table of images or
        sounds; already split, or to be split.
      weights: a weight file, a folder, `hf:org/name` or `timm:name`.
      out: the run's folder; None: `runs/` and the name of the data.
      say: is called with progress messages.
      **settings: options of the command by name, such as `ways="all"`, `size=160`, `text="review"`, `file="path"`,
        `task="regression"`.

    Raises:
      FileNotFoundError: for data or weights that do not exist.
      ValueError: for data or weights that do not fit, or a setting out of range.
      TypeError: for a setting that the command does not have.

    Example:
      >>> import json, tempfile, jax, jtl, numpy as np
      >>> from pathlib import Path
      >>> from PIL import Image
      >>> from safetensors.numpy import save_file
      >>> root, draw = Path(tempfile.mkdtemp()), np.random.default_rng(0)
      >>> for name, dark in (("day", 150), ("night", 0)):
      ...     (root / "photos" / name).mkdir(parents=True)
      ...     for i in range(4):
      ...         pixels = draw.integers(dark, dark + 90, (8, 8, 3)).astype(np.uint8)
      ...         Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
      >>> body = jtl.backbones.vit(jtl.backbones.Size(12, 1, 3, 20), image=8, patch=4)
      >>> made = jtl.network(backbone=body, head=jtl.heads.linear(2)).init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
      >>> config = {"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
      >>> config |= {"intermediate_size": 20, "image_size": 8, "patch_size": 4}
      >>> (root / "net").mkdir()
      >>> _ = (root / "net" / "config.json").write_text(json.dumps(config))
      >>> save_file({n: np.asarray(a) for n, a in jtl.flatten(made.params).items()}, root / "net" / "model.safetensors")
      >>> run = jtl.finetune_files(root / "photos", root / "net", root / "run", say=lambda line: None)
      >>> run.test.accuracy
      1.0
      >>> sorted(run.predict([root / "photos" / "day" / "0.png"])[0])
      ['day', 'night']
    """
    from jtl.command import report, tune
    from jtl.command.settings import Settings

    given = Settings(Path(data), str(weights), None if out is None else Path(out), **settings)
    tuned = tune.run(given, say)
    report.write(given, tuned)
    return Run(tuned.folder, tuned.validation, tuned.test, tuple(tuned.notes))


@dataclass(frozen=True)
class AdaptedRun(_Saved):
    """A run of `adapt_files`.

    Args:
      folder: the run's folder, with `model/`, `report.html`, `run.json`, and the files that training wrote.
      scores: label-free scores on the target by name, under "before" and "after" adaptation.
      chosen: the step whose weights were kept; 0 for the weights before adaptation.
      source: the accuracy on the source's test examples, before and after.
      target: scores on the target by its labels, before and after; None without `labelled=True`.
      notes: notes for the user about the data and the weights.
    """

    scores: dict[str, dict[str, float]]
    chosen: int
    source: tuple[float, float]
    target: "tuple[Scores, Scores] | None"
    notes: tuple[str, ...]


def adapt_files(
    source: str | Path,
    target: str | Path,
    weights: str | Path,
    method: str,
    out: str | Path | None = None,
    *,
    say: Callable[[str], Any] = print,
    **settings: Any,
) -> AdaptedRun:
    """Adapts pretrained weights from labelled to unlabelled data, like the command `jtl adapt`; writes a report.

    No label of the target is read unless `labelled=True` asks for a table at the end, or `watch="oracle"` chooses the
    checkpoint by them; the report then says so.

    Args:
      source: a folder of class folders of images or sounds, or a table of texts, or, with `file`, a table of images or
        sounds.
      target: a folder or a table; labels are not needed.
      weights: a weight file, a folder, `hf:org/name` or `timm:name`.
      method: a value of the command's `--method`, such as "mcc" or "dann"; "source" is the baseline.
      out: the run's folder; None: `runs/` and the names of both domains and of the method.
      say: is called with progress messages.
      **settings: options of the command by name, such as `watch="snd"`, `ways="all"`, `steps=500`.

    Raises:
      FileNotFoundError: for data or weights that do not exist.
      ValueError: for data or weights that do not fit, an unknown method, or a setting out of range.
      TypeError: for a setting that the command does not have.

    Example:
      >>> import inspect, jtl
      >>> list(inspect.signature(jtl.adapt_files).parameters)[:4]
      ['source', 'target', 'weights', 'method']
    """
    from jtl.command import adapt, adapt_report
    from jtl.command.adapt_settings import AdaptSettings

    named: Any = method
    place = None if out is None else Path(out)
    given = AdaptSettings(Path(source), Path(target), str(weights), named, place, **settings)
    found = adapt.run(given, say)
    adapt_report.write(given, found)
    return AdaptedRun(found.folder, found.scores, found.chosen, found.source, found.target, tuple(found.notes))

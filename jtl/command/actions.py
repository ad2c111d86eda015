"""The actions of the commands, and their output; nothing heavy is imported before it is used."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from jtl.command.adapt_settings import LOW, AdaptSettings
from jtl.command.few_settings import FewShot
from jtl.command.predictions import class_words
from jtl.command.run_settings import one_column
from jtl.command.runs import saved as saved
from jtl.command.settings import Settings, writable
from jtl.paths import local


def _tell(folder: Path) -> None:
    """Prints to stderr which checkpoint of a run is used, because another program may read the results in stdout."""
    from jtl.command.saved_network import chosen
    from jtl.train.checkpoint.checkpoints import Checkpoints

    if which := chosen(Checkpoints(folder)):
        print(f"{folder}: {which}", file=sys.stderr)


def _note(notes: Sequence[str]) -> None:
    """Prints notes on the examples to stderr, apart from the results."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _predicting(run: Path) -> str:
    """Returns the command that predicts, to be copied into a shell and completed by examples."""
    return shlex.join(["jtl", "predict", str(run)])


def finetune(settings: Settings) -> int:
    """Runs a fine-tuning and writes its report."""
    from jtl.command import report, tune

    tuned = tune.run(settings)
    page = report.write(settings, tuned)
    for note in tuned.notes:
        print(f"note: {note}")
    print(f"report: {page}\npredict: {_predicting(settings.folder)} FILE...")
    return 0


def adapt_few(settings: FewShot) -> int:
    """Learns classes from a few examples and writes the report."""
    from jtl.command import few, few_report

    found = few.run(settings)
    for note in found.notes:
        print(f"note: {note}")
    if len(found.right):
        print(f"each example predicted from the others: {found.right.sum()} of {len(found.right)} are right")
    page = few_report.write(settings, found)
    print(f"report: {page}\npredict: {_predicting(settings.folder)} INPUT...")
    return 0


def adapt(settings: AdaptSettings) -> int:
    """Runs an adaptation and writes its report."""
    from jtl.command import adapt, adapt_report

    adapted = adapt.run(settings)
    page = adapt_report.write(settings, adapted)
    for note in adapted.notes:
        print(f"note: {note}")
    if adapted.target is not None:
        before, after = (100 * scores.accuracy for scores in adapted.target)
        print(f"accuracy on the target by its labels: {before:.1f} % before, {after:.1f} % after")
    print(f"report: {page}\npredict: {_predicting(settings.folder)} FILE...")
    return 0


def sweep(
    *,
    out: Path,
    grid: tuple[str, ...],
    by: str | None,
    low: bool,
    command: list[str],
    recipe: Callable[[list[str]], Any],
) -> int:
    """Runs a grid and prints its ranking; returns 1 if a run failed.

    Args:
      out: the sweep's folder.
      grid: options and their values.
      by: the name of the number that ranks the runs.
      low: whether lower is better.
      command: the words after `--`.
      recipe: a function from the words after `train` to the result of the recipe's `train()`.

    Raises:
      ValueError: for a command that cannot be swept, an unknown ranking, or if all runs failed.
    """
    from jtl.command import sweep
    from jtl.command.grid import name_of
    from jtl.command.sweep_commands import ERRORS, execute, favoured, ranking

    found = ranking(command, grid, by)
    rows = sweep.run(command, grid, out.expanduser(), execute(recipe))
    errors = LOW if command[0] == "adapt" else ERRORS if command[0] == "finetune" else ()
    ranks = sweep.ranked(rows, found, low or found in errors)
    note = favoured(ranks, found) if command[0] == "adapt" else None
    failed = sweep.failures(rows)
    print(f"report: {sweep.write(ranks, found, out.expanduser(), command, note, failed)}")
    best = out.expanduser() / name_of(ranks[0].runs[0])
    print(f"best run: {best}")
    if command[0] != "train":  # only a recipe knows where it saves its networks
        print(f"predict: {_predicting(best)} FILE...")
    for settings, why in failed:
        print(f"jtl: the run of {settings} failed: {why}", file=sys.stderr)
    return 1 if failed else 0


def features(
    *, inputs: tuple[str, ...], weights: str, out: Path, text: str | None, file: str | None, **options: Any
) -> int:
    """Writes features of images, sounds or texts.

    Args:
      inputs: files or folders, or one table.
      weights: the weights of the network.
      out: the file to write.
      text: the column of texts, for a table of texts.
      file: the column of paths, for a table of files.
      **options: further options of `inference.features`.

    Raises:
      ValueError: for no inputs, for several tables, or for both a column of texts and a column of files.
    """
    from jtl.command import inference

    one_column(text, file)
    column = file if text is None else text
    if not inputs or (column is not None and len(inputs) > 1):
        what = "files or folders of images or sounds" if column is None else f"one table with the column {column!r}"
        raise ValueError(f"{len(inputs)} inputs: give {what}")
    found = inference.features(weights, inputs, out, text=text, file=file, **options)
    _note(found.notes)
    print(f"{out}: features [{found.rows}, {found.width}]")
    return 0


def rank(*, data: Path, models: tuple[str, ...], **options: Any) -> int:
    """Prints the transferability scores of several networks.

    Args:
      data: labelled data.
      models: the weights of the networks.
      **options: options of `jtl.command.rank.rank`.
    """
    from jtl.command import rank as ranking
    from jtl.report.tables import show

    found = ranking.rank(data, models, **options)
    show(ranking.table(found))
    for one in found:
        if one.note:
            print(f"no NCE and LEEP of {one.model}: {one.note}")
    _note([f"{one.model}: {one.told}" for one in found if one.told is not None])
    return 0


def export(*, folder: Path, out: Path, format: Literal["hf", "timm", "torchvision", "jtl"]) -> int:
    """Writes a saved network for another library."""
    from jtl.command import inference

    inference.export(folder, out, format)
    _tell(folder)
    print(f"{out}: written for {format}")
    return 0


def evaluate(*, folder: Path, data: Path | None, **columns: str | None) -> int:
    """Prints the scores of a saved network.

    Args:
      folder: the folder of the network.
      data: labelled data.
      **columns: `text`, `label` and `file` of `inference.judge`.

    Raises:
      ValueError: if no data are given.
    """
    from jtl.command import inference

    if data is None:
        raise ValueError("give labelled data to evaluate on: jtl eval RUN DATA")
    scores, notes = inference.judge(folder, data, **columns)
    _tell(folder)
    _note(notes)
    told(scores)
    return 0


def told(scores: Any) -> None:
    """Prints the scores of a network, `jtl.command.scores.Scores` or `NumberScores`."""
    print(scores.told)
    for line in scores.lines():
        print(line)


def predict(*, folder: Path, inputs: tuple[str, ...], top: int | None, csv: Path | None, **columns: str | None) -> int:
    """Prints the predictions of a saved network, and writes them to a file if asked.

    Args:
      folder: the folder of the network.
      inputs: the examples.
      top: how many classes to name for each example; None for three, or for a network of numbers.
      csv: the file to write; None for none.
      **columns: `text` and `file` of `inference.predict`.

    Raises:
      ValueError: if `csv` is a folder, or lies where nothing can be written.
    """
    from jtl.command import inference

    if csv is not None:
        csv = local(csv, "--csv")
        writable(csv.parent, "--csv")
        if csv.is_dir():
            raise ValueError(f"--csv {str(csv)!r} is a folder: give the file to write, as {str(csv / 'found.csv')!r}")
    found = inference.predict(folder, inputs, **columns, top=top)
    _tell(folder)
    _note(found.notes)
    if csv is not None:
        inference.write_csv(csv, found.items, found.values, found.classes, found.beside, found.task.columns)
    ranked(found.items, found.values, found.classes, found.task.top if top is None else top, found.task.words)
    return 0


def ranked(
    items: Sequence[Any],
    values: Any,
    names: Sequence[str],
    top: int | None,
    words: Callable[[Any, Sequence[str], int | None], str] = class_words,
) -> None:
    """Prints the prediction of each example, by default the most probable classes, one line each.

    Args:
      items: the examples; a text of several lines is printed as one.
      values: the values of each example.
      names: their names.
      top: how many classes to name.
      words: one example's values in words.
    """
    for given, value in zip(items, values, strict=True):
        print(f"{' '.join(str(given).splitlines())}: {words(value, names, top)}")

"""Uses of a saved network: predictions, scores on labelled data, features, and export to other libraries."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jtl.command import passes, source
from jtl.command.class_labels import Reader, class_labels
from jtl.command.file_tables import hint, listed
from jtl.command.inputs import texts_in_tables
from jtl.command.model import inputs_of, pretrained
from jtl.command.predictions import Columns as Cells
from jtl.command.predictions import class_columns
from jtl.command.runs import weights_of
from jtl.command.saved_network import Columns, about_run, columns, inputs_as_saved, opened, whole
from jtl.command.settings import writable
from jtl.command.tables import rows as rows_of
from jtl.command.task import Task
from jtl.command.tasks import task_of
from jtl.command.written import write_table
from jtl.data.folder import visible
from jtl.paths import local
from jtl.pretrained.save import save
from jtl.reads import reads


class Predicted(NamedTuple):
    """The predictions of a network.

    Args:
      items: the examples.
      values: the probability of each class, [examples, classes]; or the predicted number, [examples, 1].
      classes: the names of the classes; of numbers, one name.
      notes: notes for the user about the examples.
      beside: for each example, the other cells of its table row by column; empty if it is not from a table.
      task: what the network predicts.
    """

    items: list[Any]
    values: np.ndarray
    classes: tuple[str, ...]
    notes: list[str]
    beside: list[Mapping[str, Any]]
    task: Task


def predict(
    folder: Path, inputs: Sequence[str], *, text: str | None = None, file: str | None = None, top: int | None = None
) -> Predicted:
    """Predicts the probability of each class, or a number, for some examples.

    Args:
      folder: the folder of a saved network.
      inputs: files or folders of images or sounds, or tables of such files; for a text network, texts, files with one
        text per line, or tables.
      text: the column of texts in tables; None for the column that the network was trained on, else "text".
      file: the column of paths in tables; None for the column that the network was trained on.
      top: how many classes will be shown; None for the default.

    Raises:
      ValueError: for an output that is not finite, naming the example; a table without the column, naming its columns;
        a table of files of another kind; a column of files for a network of texts, or of texts for another network; or
        a `top` for a network of numbers.
    """
    loaded, kind = opened(folder)
    task = task_of(loaded)
    if top is not None and task.top is None:
        raise ValueError(f"--top {top}: the network predicts one number for each example, and no classes; leave it out")
    items: list[Any]
    beside: list[Mapping[str, Any]]
    own = columns(folder, text=text, file=file)
    if kind == "texts":
        if file is not None:
            raise ValueError(f"--file {file!r}: the network takes texts; give their column, --text COLUMN")
        given = texts_in_tables(inputs, own.text, own.option, own.mark)
        items, beside, passed = [one.text for one in given], [one.beside for one in given], []
    else:
        if text is not None:
            raise ValueError(f"--text {text!r}: the network takes {kind}; give --file COLUMN")
        items, beside, passed = _files(inputs, kind, own)
    how, loaded = inputs_as_saved(loaded, folder, kind, items)
    assert loaded.labels is not None
    found = task.predicted(passes.logits(loaded, how)(items))
    return Predicted(items, found, loaded.labels, [*passed, *how.notes(items)], beside, task)


def _files(inputs: Sequence[str], kind: str, own: Columns) -> tuple[list[Any], list[Mapping[str, Any]], list[str]]:
    """Returns given files and those of tables, in the order of the inputs; the other cells of their rows; and notes."""
    items: list[Any] = []
    beside: list[Mapping[str, Any]] = []
    suffixes = source.suffixes_of(kind)
    others = [given for given in inputs if Path(given).suffix.lower() not in source.TABLES]
    for given in inputs:
        if given in others:
            found = source.files_in(given, suffixes)
            items += found
            beside += [{} for _ in found]
            continue
        table = Path(given).expanduser()
        if own.file is None:
            raise ValueError(f"{str(table)!r} is a table: name the column of the paths of its {kind}, --file COLUMN")
        rows = rows_of(table, (own.file,), own.option, own.mark)
        there, files = listed(table, own.file, rows)
        if there != kind:
            raise ValueError(f"the network takes {kind}, and {str(table)!r} lists {there}")
        items += files
        beside += [{name: cell for name, cell in row.items() if name != own.file} for row in rows]
    source.refuse_none(items, others, suffixes)  # a table has rows
    return items, beside, source.passed_over(others, suffixes)


class Judged(NamedTuple):
    """The scores of a network, `Scores` or `NumberScores`, and notes for the user about the examples."""

    scores: Any
    notes: list[str]


def judge(
    folder: Path, data: Path, *, text: str | None = None, label: str | None = None, file: str | None = None
) -> Judged:
    """Scores a network on labelled data, matched by class names; if the data are split, on `test/`, else `val/`.

    Args:
      folder: the folder of a saved network.
      data: a folder or a table.
      text: the column of texts in a table; None for the column that the network was trained on, else "text".
      label: the column of labels; None for the column that the network was trained on, else "label".
      file: the column of paths of images or sounds; None for the column that the network was trained on.
    """
    loaded, kind = opened(folder)
    task = task_of(loaded)
    own = columns(folder, text=text, label=label, file=file)
    listing = own.file if file is not None or (text is None and source.in_tables(data)) else None
    assert loaded.labels is not None
    names = {"text": own.text, "label": own.label, "file": listing}
    examples = labelled(data, **names, classes=loaded.labels, labels=task.labels)
    if examples.kind != kind:
        more = hint(examples.kind, examples.items, data, own.text)
        raise ValueError(f"the network takes {kind}, and {str(data)!r} holds {examples.kind}{more}")
    how, loaded = inputs_as_saved(loaded, folder, kind, examples.items)
    outputs = passes.logits(loaded, how)(examples.items)
    scores = task.scored(outputs, examples.labels, examples.classes, about_run(folder))
    return Judged(scores, how.notes(examples.items))


def labelled(
    data: Path, *, text: str, label: str, file: str | None, classes: Sequence[str], labels: Reader = class_labels
) -> source.Examples:
    """Reads labelled examples to score a network on: if the data are split, those of `test/`, else of `val/`.

    Args:
      data: a folder or a table.
      text: the column of texts.
      label: the column of labels.
      file: the column of paths; None for folders of files, and for a table of texts.
      classes: the network's classes.
      labels: reads the labels of a table.
    """
    parts = source.parts_of(data.expanduser(), tables=file is not None)
    folders = [place for place in visible(data.expanduser()) if place.is_dir()] if parts else []
    if parts and "train" not in parts and (file is not None or set(folders) <= set(parts.values())):
        data = parts.get("test", next(iter(parts.values())))  # nothing is learned here, so a split alone is enough
    found = source.read(data, text=text, label=label, file=file, classes=classes, labels=labels)
    examples = found.get("test", found.get("val", found.get("all", found.get("train"))))
    assert examples is not None
    return examples


class Extracted(NamedTuple):
    """The shape of the features that were written, and notes for the user about the examples."""

    rows: int
    width: int
    notes: list[str]


def features(
    weights: str,
    inputs: Sequence[str],
    out: Path,
    *,
    arch: str | None = None,
    size: int | None = None,
    text: str | None = None,
    layers: Sequence[str] = (),
    cache: Path | None = None,
    file: str | None = None,
) -> Extracted:
    """Writes the features of images, sounds or texts into an .npz file, as `features` [rows, width] and `inputs`.

    Args:
      weights: the weights of the network.
      inputs: files or folders of images or of sounds; or one table of texts or files, whose labels are not needed.
      out: the file to write.
      arch: the name of the network, if the weights do not specify it.
      size: side of the images in pixels; None for the network's own.
      text: the column of texts, for a table of texts; None for images and sounds.
      layers: names of backbone features to concatenate; empty for the features that the head reads.
      cache: a folder that keeps the features of each batch; see `jtl.finetuning.Cache`.
      file: the column of paths, for a table of files.

    Raises:
      ValueError: for a mix of images and sounds, a table without `text` or `file`, or an `out` that is not .npz.
    """
    key = jax.random.key(0)
    out = local(out, "--out")
    if out.suffix != ".npz" or out.is_dir():  # NumPy would append .npz and write another file
        raise ValueError(f"--out {str(out)!r}: give the .npz file to write, as {str(out / 'features.npz')!r}")
    writable(out.parent, f"--out {str(out)!r}: the folder")
    if text is not None:
        kind, items, passed = "texts", source.column(Path(*inputs), text), []
    elif file is not None:
        (kind, items), passed = source.paths(Path(*inputs), file), []
    else:
        if tables := [given for given in inputs if Path(given).suffix.lower() in source.TABLES]:
            raise ValueError(
                f"{tables[0]!r} is a table: name the column of its texts, --text COLUMN, or that of the paths of images"
                " or sounds, --file COLUMN"
            )
        items = source.files_of(inputs, source.SUFFIXES + source.SOUNDS)
        passed = source.passed_over(inputs, source.SUFFIXES + source.SOUNDS)
        heard = [item for item in items if item.suffix.lower() in source.SOUNDS]
        if heard and len(heard) < len(items):
            other = next(item for item in items if item not in heard)
            raise ValueError(f"{str(heard[0])!r} is a sound and {str(other)!r} an image: give one kind")
        kind = "sounds" if heard else "images"
    weights = weights_of(weights)
    more = "" if text is None else hint(kind, items, Path(*inputs), text)
    loaded = pretrained(weights, ("a", "b"), arch=arch, kind=kind, key=key, size=size, hint=more)  # no head is used
    seconds = about_run(Path(weights)).get("seconds") if kind == "sounds" else None
    how, loaded = inputs_of(loaded, weights, kind, items, size, seconds=seconds)
    rows = passes.features(loaded, how, reads(layers) if layers else None, cache)(items)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, features=rows, inputs=np.array([str(item) for item in items]))
    return Extracted(len(rows), rows.shape[1], [*passed, *how.notes(items)])


def export(folder: Path, out: Path, format: Literal["hf", "timm", "torchvision", "jtl"]) -> None:
    """Writes a saved network in the file format of another library."""
    writable(local(out, "OUT"), "OUT")
    save(out, whole(folder), format=format)


def write_csv(
    path: Path,
    items: Sequence[Any],
    values: np.ndarray,
    classes: Sequence[str],
    beside: Sequence[Mapping[str, Any]] | None = None,
    columns: Callable[[np.ndarray, Sequence[str]], Cells] = class_columns,
) -> None:
    """Writes one row per example: input, its other table cells, and the columns of its prediction.

    Column names are made unique, because readers select columns by name. A table column that has the name of another
    column, such as `share`, becomes `column share`; a class with a name in use, such as `input`, becomes `class input`.

    Args:
      path: the file to write.
      items: the examples.
      values: the probability of each class, [examples, classes], or the predicted number, [examples, 1].
      classes: the names of the classes; of numbers, one name.
      beside: for each example, the other cells of its table row by column; None if there are none.
      columns: makes the columns of the predictions: `class_columns` or `number_columns`.
    """
    beside = [{} for _ in items] if beside is None else beside
    others, found = list(dict.fromkeys(name for row in beside for name in row)), columns(values, classes)
    taken = {"input", *found.own}
    named = [_free(name, "column", taken) for name in others]
    by_class = [_free(name, "class", taken) for name in found.classes]
    rows: list[list[str]] = [["input", *named, *found.own, *by_class]]
    for item, row, cells in zip(items, beside, found.rows, strict=True):
        rows.append([str(item), *(_cell(row.get(name)) for name in others), *cells])
    write_table(path, rows)


def _free(name: str, kind: str, taken: set[str]) -> str:
    """Returns the name, prefixed by its kind if it is taken, and marks it as taken."""
    while name in taken:
        name = f"{kind} {name}"
    taken.add(name)
    return name


def _cell(value: Any) -> str:
    """Returns a cell as text for a .csv; nested values of a .jsonl become JSON."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)

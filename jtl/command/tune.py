"""One fine-tuning, from data and weights to a saved network and a report."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import jtl.data
from jtl import optim, rng
from jtl.command import passes, source
from jtl.command import settings as files
from jtl.command.augmentation import augmentation
from jtl.command.device import training_mesh
from jtl.command.file_tables import hint
from jtl.command.head import MANY, Crossed
from jtl.command.model import Inputs, inputs_of, pretrained, side_of
from jtl.command.runs import weights_of
from jtl.command.settings import Settings
from jtl.command.source import Examples, joined
from jtl.command.splits import shared, split
from jtl.command.task import Plan
from jtl.command.tasks import TASKS
from jtl.data.content import of_files, of_texts
from jtl.data.lengths import ByLength
from jtl.data.pipeline import Dataset
from jtl.methods.augmented import augmented
from jtl.methods.finetune.finetune import finetune
from jtl.model import Variables
from jtl.objective import Objective
from jtl.params import flatten, select
from jtl.pretrained.folded import folded
from jtl.pretrained.load import Pretrained
from jtl.pretrained.save import save
from jtl.train import (
    Checkpoints,
    JsonLines,
    Rates,
    Validation,
    evaluate,
    fit,
    lr_find,
    make_step,
    read_json_lines,
)
from jtl.typing import Mask

MARGIN = 256 / 224
"""Training takes random windows from images that are larger than the network's input by this factor."""
CLIP = 1.0


@dataclass(frozen=True)
class Tuned:
    """The result of `run`.

    Args:
      folder: the run's folder: `model/`, `report.html`, `run.json`, and the files that training wrote.
      loaded: the network with the saved weights.
      validation: scores on examples that these weights were not fitted on; `judged` says which. They are `Scores` of
        classes, or `NumberScores`.
      judged: the examples of `validation`, in words.
      test: scores on the test examples, which were used for no choice.
      history: the numbers of every training step and validation; empty if the head alone is trained.
      chosen: the weights that are kept: "head" if no training step beyond the head was better on the validation
        examples, else `--ways`, or the mean of both.
      splits: the examples of each split.
      head: how the saved head was fitted, if cross-validation chose its penalty; else None.
      notes: notes for the user about the data and the weights.
      learning_rate: the peak that was used.
      rates: the range test of the learning rate; None if it was not requested.
    """

    folder: Path
    loaded: Pretrained
    validation: Any
    judged: str
    test: Any
    history: list[dict[str, Any]]
    chosen: str
    splits: dict[str, Examples]
    head: Crossed | None
    notes: list[str]
    learning_rate: float
    rates: Rates | None


def run(settings: Settings, say: Callable[[str], Any] = print) -> Tuned:
    """Fine-tunes, chooses by the validation examples, tests once, and saves.

    The head is fitted first, on features that are computed once. The other ways continue from it, because a random head
    would distort the pretrained features (Kumar et al., 2022, arXiv 2202.10054).

    Args:
      settings: the run's settings.
      say: is called with progress messages.

    Raises:
      FileNotFoundError: for data or weights that do not exist.
      ValueError: for data or weights that do not fit.
    """
    files.refuse_another(settings)
    names: dict[str, Any] = {
        "text": settings.text,
        "label": settings.label,
        "file": settings.file,
        "group": settings.group,
    }
    task = TASKS[settings.task]
    given = source.read(settings.data, **names, labels=task.labels)
    splits = split(given, settings.seed)
    train = splits["train"]
    plan = task.plan(settings, train)
    notes = [*plan.notes, *shared(splits)]
    key, weights = jax.random.key(settings.seed), weights_of(settings.weights)
    loaded = pretrained(
        weights,
        train.classes,
        arch=settings.arch,
        kind=train.kind,
        key=rng.stream(key, "head"),
        size=settings.size,
        hint=hint(train.kind, train.items, settings.data, settings.text),
    )
    items = [item for part in splits.values() for item in part.items]
    inputs, loaded = inputs_of(plan.prepared(loaded), weights, train.kind, items, settings.size)
    for part, examples in splits.items():
        if (note := inputs.note(examples.items)) is not None:
            notes.append(f"{part}: {note}")
    sizes = ", ".join(f"{len(part)} {name}" for name, part in splits.items())
    say(f"{plan.told}; {sizes} examples; {loaded.config.model_type}")
    rows = replace(settings, batch=min(settings.batch, len(train)))  # further rows of a batch would be empty
    spread = None if settings.ways == "head" else training_mesh(rows.batch, settings.devices, say)
    read, seen = passes.features(loaded, inputs), {}
    for part in ("train", "val"):
        say(f"features of {part}")
        seen[part] = read(splits[part].items)

    def crossed(*parts: str) -> Crossed:
        rows, examples = np.concatenate([seen[part] for part in parts]), joined([splits[part] for part in parts])
        return plan.crossed(loaded, rows, examples)

    # A given validation split is never fitted on. A drawn one is, unless it judges the steps that train the backbone.
    folds = "val" not in given and len(train) + len(splits["val"]) <= MANY
    folds = folds and len(set(train.groups or "ab")) > 1  # a fold holds whole groups
    head = crossed("train", *(["val"] if settings.ways == "head" else [])) if folds else None
    start = plan.head_by(loaded, seen, splits) if head is None else head.variables
    best, history, chosen, rates, rate = start, [], "head", None, settings.learning_rate
    if spread is not None:
        if folded(loaded.variables):
            notes.append("batch normalisation is folded into these weights: its statistics stay as they are")
        loaded = loaded._replace(variables=start)
        data, objective, trained = _training(rows, loaded, inputs, train, plan)
        if settings.find_rate:
            if spread.size > 1:  # so that a run which resumes on another number of devices finds the same rate
                say(f"range test of the learning rate: one device, with all {rows.batch} examples of a batch")
            key = rng.stream(jax.random.key(settings.seed), "rate")
            rates = lr_find(objective, start, data, key=key, optimizer=_optimizer, trainable=trained, clip=CLIP)
            if rates.tenth is None:
                notes.append(f"the range test suggests no learning rate: {rates.note}; the rate stays {rate:g}")
            else:
                rate = rates.tenth
                say(f"learning rate {rate:.2g}, by a range test")
        files.begin(settings, Checkpoints(settings.folder / "checkpoints"))
        best, history, chosen = _below(
            rows, loaded, inputs, splits, (data, objective, trained), plan, rate, spread, say
        )
        head = crossed("train", "val") if folds and chosen == "head" else None
        if chosen == "head":
            notes.append("no step below the head was better on the validation examples: the head alone is kept")
            best = best if head is None else head.variables
    loaded = task.finished(loaded._replace(variables=jax.tree.map(np.asarray, best)))
    logits = passes.logits(loaded, inputs)
    test = task.scored(logits(splits["test"].items), splits["test"].labels, train.classes, plan.about)
    if head is None:
        val, judged = splits["val"], "validation examples, by which this network was chosen"
        validation = task.scored(logits(val.items), val.labels, train.classes, plan.about)
    else:
        judged = "training and validation examples, each by a head that was fitted without its fold"
        validation = task.scored(head.logits, head.examples.labels, train.classes, plan.about)
    if spread is None:
        files.clear(settings.folder)
    save(settings.folder / "model", loaded, format="jtl")
    content = {
        "settings": settings.as_json(),
        "kind": train.kind,
        "mark": source.mark(settings.data, settings.text, settings.label, settings.file),
        "seconds": inputs.seconds,
        "classes": train.classes,
        **plan.about,
        "chosen": chosen,
        "head": None if head is None else head.told,
        "notes": notes,
        "learning_rate": rate,
        "validation": {"examples": judged, **validation.numbers()},
        "test": test.numbers(),
    }
    files.write(settings.folder, content)
    say(f"test {test.told}")
    return Tuned(
        settings.folder, loaded, validation, judged, test, history, chosen, splits, head, notes, rate, rates
    )  # fmt: skip


def _training(
    settings: Settings, loaded: Pretrained, inputs: Inputs, train: Examples, plan: Plan
) -> tuple[Dataset | ByLength, Objective, Mask]:
    """Returns the batches, the objective, and the mask of trained parameters."""
    side = None if inputs.preprocessing is None else side_of(inputs.preprocessing)
    if train.kind == "texts":
        data = _texts(inputs, train, settings, shuffle=True)
    else:
        data = Dataset(Rows(inputs, train, 1.0 if side is None else MARGIN), settings.batch, seed=settings.seed)
    frozen = folded(loaded.variables)
    objective = finetune(loaded.network, plan.loss, metrics=plan.metrics, frozen_stats=frozen)
    if (moved := augmentation(inputs)) is not None:
        objective = augmented(objective, moved)
    return data, objective, select(*trained_by(settings.ways, loaded.variables))


def _texts(inputs: Inputs, rows: Examples, settings: Settings, *, shuffle: bool) -> ByLength:
    """Returns batches of texts of similar length, which are tokenized once."""
    options = {"batch_size": settings.batch, "seed": settings.seed, "classes": rows.classes}
    return jtl.data.by_length(inputs.read(rows.items), rows.targets, shuffle=shuffle, **options)


def _optimizer(rate: Any) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=1e-4, mask=optim.decayed)


def _below(
    settings: Settings,
    loaded: Pretrained,
    inputs: Inputs,
    splits: dict[str, Examples],
    training: tuple[Dataset | ByLength, Objective, Mask],
    plan: Plan,
    rate: float,
    spread: Mesh,
    say: Any,
) -> tuple[Variables, list[dict[str, Any]], str]:
    """Trains, and returns the best of three: the start, the best step, and the mean of both.

    The best has the highest validation accuracy, with ties broken by the loss; of numbers, the lowest RMSE. The mean of
    the weights before and after training is often more accurate than both on data unlike the training data (Wortsman et
    al., Robust fine-tuning of zero-shot models, 2021, arXiv 2109.01903).

    Returns:
      The variables, the history, and the name of the choice.
    """
    net, (data, objective, trained) = loaded.network, training
    val = splits["val"]
    if val.kind == "texts":
        held = _texts(inputs, val, settings, shuffle=False)
    else:
        held = jtl.data.arrays(inputs.read(val.items), val.targets, batch_size=settings.batch, shuffle=False)
    steps = settings.steps or max(50, 10 * len(data))
    tx = _optimizer(optim.warmup_cosine(rate, steps))
    step = make_step(objective, tx, trainable=trained, clip=CLIP)
    judge = plan.judge(net)
    every = between(steps, len(data))
    options: Any = {"watch": plan.watch, "mode": plan.mode, "patience": settings.patience}
    validation = Validation(judge, held, every=every, **options)
    recipe = shlex.join(["jtl", "finetune", str(settings.data)])
    saver = Checkpoints(settings.folder / "checkpoints", every=every, keep=1, recipe=recipe, network=loaded)
    key = rng.stream(jax.random.key(settings.seed), "run")
    record = JsonLines(settings.folder / "metrics.jsonl")
    state = step.init(loaded.variables, key)
    fit(step, state, data, steps=steps, mesh=spread, validation=validation, checkpoints=saver, records=[record])
    history = read_json_lines(record.path)  # the whole history of a resumed run, not only the steps of this call
    start, best = loaded.variables, saver.variables(step="best")
    mean = jax.tree.map(lambda a, b: ((np.asarray(a) + np.asarray(b)) / 2).astype(a.dtype), start, best)
    found = {"head": start, settings.ways: best, f"the mean of {settings.ways} and head": mean}
    scores = {name: evaluate(judge, one_of, held, mesh=spread) for name, one_of in found.items()}
    told = ", ".join(f"{score[plan.measure]:.3f} of {name}" for name, score in scores.items())
    say(f"validation {plan.measure} {told}; the best step is {saver.about(step='best')['step']}")
    best_of = max if plan.mode == "max" else min
    chosen = best_of(scores, key=lambda name: scores[name][plan.watch])
    return found[chosen], history, chosen


def between(steps: int, epoch: int) -> int:
    """Returns the steps between evaluations: one epoch, if that gives ten to twenty evaluations per run.

    Patience counts evaluations. With five examples, one epoch is one step, so a run would stop during its warm-up.

    Example:
      >>> between(600, 60), between(50, 1), between(1000, 200)
      (60, 3, 100)
    """
    return max(1, -(-steps // 20), min(epoch, steps // 10))


def trained_by(ways: str, variables: Variables) -> tuple[str, ...]:
    """Returns patterns of the trained parameters: the head, the head with the last stage or block, or all."""
    if ways == "all":
        return (".*",)
    if ways == "head":
        return ("head/.*",)
    tops = {path.split("/")[1] for path in flatten(variables.params) if path.startswith("backbone/")}
    numbered = [
        (name.rstrip("0123456789"), int(name[len(name.rstrip("0123456789")) :])) for name in tops if name[-1:].isdigit()
    ]
    if not numbered:
        raise ValueError(
            f"--ways last: this network has no numbered stages or blocks, only {sorted(tops)}; use --ways all"
        )
    name, last = max(numbered, key=lambda one: (one[0] in ("stage", "block"), one[1]))
    return ("head/.*", f"backbone/{name}{last}/.*")


@dataclass(frozen=True)
class Rows:
    """A data source that reads examples only when they are needed.

    Args:
      inputs: converts files or texts to the network's input.
      examples: the examples; their labels are the batches' `y`.
      margin: images are larger by this factor than in evaluation, for random windows.
    """

    inputs: Inputs
    examples: Examples
    margin: float

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.examples)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.examples.classes

    @property
    def content(self) -> str:
        """A text that tells the examples from others."""
        own = self.examples
        return (of_texts if own.kind == "texts" else of_files)(own.items, own.labels)

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """Reads one batch."""
        del draws
        some = self.examples.rows(index)
        return {"x": self.inputs.read(some.items, margin=self.margin), "y": some.targets}

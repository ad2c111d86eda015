"""One fine-tuning, from data and weights to a saved network and a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jtl.data
from jtl import heads, losses, optim, rng
from jtl.backbones.identity import identity
from jtl.command import passes, source
from jtl.command import settings as files
from jtl.command.model import Inputs, inputs_of, pretrained, side_of
from jtl.command.scores import Scores, scored
from jtl.command.settings import Settings
from jtl.command.source import Examples
from jtl.command.splits import groups_in_both, repeated, split
from jtl.data import augment
from jtl.data.lengths import ByLength
from jtl.data.pipeline import Dataset
from jtl.methods.augmented import augmented
from jtl.methods.finetune.finetune import evaluation, finetune
from jtl.model import Variables
from jtl.networks import network
from jtl.objective import Objective
from jtl.params import flatten, select
from jtl.pretrained.folded import folded
from jtl.pretrained.load import Pretrained
from jtl.pretrained.save import save
from jtl.recipes.parts.texts import probe
from jtl.train import (
    Checkpoints,
    JsonLines,
    Rates,
    Validation,
    evaluate,
    fit,
    lr_find,
    make_step,
    mesh,
    read_json_lines,
)
from jtl.typing import Mask

MARGIN = 256 / 224
"""Training sees random windows of images that are this much larger than the network's input."""
CLIP = 1.0
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Tuned:
    """The result of `run`.

    Args:
      folder: of the run: `model/`, `report.html`, `run.json`, and what training wrote.
      loaded: the network with the weights that are saved.
      validation: scores on the validation examples.
      test: scores on the test examples, which chose nothing.
      history: the numbers of every step and validation below the head.
      chosen: "head" where no step below the head was better on the validation examples.
      splits: the examples.
      notes: what the user should know of data and weights.
      learning_rate: the peak that was used.
      rates: the range test of the rate, where it was asked for.
    """

    folder: Path
    loaded: Pretrained
    validation: Scores
    test: Scores
    history: list[dict[str, Any]]
    chosen: str
    splits: dict[str, Examples]
    notes: list[str]
    learning_rate: float
    rates: Rates | None


def run(settings: Settings, say: Callable[[str], Any] = print) -> Tuned:
    """Fine-tunes, chooses by the validation examples, tests once, and saves.

    The head is fitted first, on features that are computed once; the other ways go on from there, because a random head
    would distort what was pretrained (Kumar et al., 2022, arXiv 2202.10054).

    Args:
      settings: of the run.
      say: is told of progress.

    Raises:
      FileNotFoundError: for data or weights that are not there.
      ValueError: for data or weights that do not fit, in words.
    """
    files.refuse_another(settings)
    names = {"text": settings.text, "label": settings.label, "group": settings.group}
    splits = split(source.read(settings.data, **names), settings.seed)
    train, notes = splits["train"], []
    if alike := source.alike(splits["train"].classes):
        notes.append(f"the classes {alike[0]!r} and {alike[1]!r} differ by upper and lower case alone: are they one?")
    for (a, b, item), count in [(twice[0], len(twice))] if (twice := repeated(splits)) else []:
        notes.append(
            f"{count} examples of {b} or others are in {a} too, as {str(item)[:60]!r}: their scores are too good"
        )
    for name, both in groups_in_both(splits):
        notes.append(f"{len(both)} groups of train are in {name} too, as {both[0]!r}: its scores are too good")
    key = jax.random.key(settings.seed)
    loaded = pretrained(
        settings.weights,
        train.classes,
        arch=settings.arch,
        kind=train.kind,
        key=rng.stream(key, "head"),
        size=settings.size,
    )
    inputs, loaded = inputs_of(loaded, settings.weights, train.kind, train.items, settings.size)
    for part, examples in splits.items():
        if (note := inputs.note(examples.items)) is not None:
            notes.append(f"{part}: {note}")
    sizes = ", ".join(f"{len(part)} {name}" for name, part in splits.items())
    say(f"{len(train.classes)} classes; {sizes} examples; {loaded.config.model_type}")
    start = fitted_head(loaded, inputs, splits, say, settings.balanced)
    best, history, chosen, rates, rate = start, [], "head", None, settings.learning_rate
    if settings.ways != "head":
        if folded(loaded.variables):
            notes.append("batch normalisation is folded into these weights: its statistics stay as they are")
        loaded = loaded._replace(variables=start)
        rows = replace(settings, batch=min(settings.batch, len(train)))  # more of a batch would be empty
        data, objective, trained = _training(rows, loaded, inputs, train)
        if settings.find_rate:
            key = rng.stream(jax.random.key(settings.seed), "rate")
            rates = lr_find(objective, start, data, key=key, optimizer=_optimizer, trainable=trained, clip=CLIP)
            if rates.tenth is None:
                notes.append(f"the range test's loss never fell below its first: the rate stays {rate:g}")
            else:
                rate = rates.tenth
                say(f"learning rate {rate:.2g}, by a range test")
        best, history, chosen = _below(rows, loaded, inputs, splits, (data, objective, trained), rate, say)
        if chosen == "head":
            notes.append("no step below the head was better on the validation examples: the head alone is kept")
    loaded = loaded._replace(variables=jax.tree.map(np.asarray, best))
    logits = passes.logits(loaded, inputs)
    found = {name: scored(logits(splits[name].items), splits[name].labels, train.classes) for name in ("val", "test")}
    save(settings.folder / "model", loaded, format="jtl")
    content = {
        "settings": settings.as_json(),
        "kind": train.kind,
        "classes": train.classes,
        "chosen": chosen,
        "notes": notes,
        "learning_rate": rate,
    }
    files.write(settings.folder, {**content, "validation": found["val"].numbers(), "test": found["test"].numbers()})
    say(f"test accuracy {100 * found['test'].accuracy:.1f} % of {len(splits['test'])}")
    return Tuned(settings.folder, loaded, found["val"], found["test"], history, chosen, splits, notes, rate, rates)


def fitted_head(
    loaded: Pretrained, inputs: Inputs, splits: dict[str, Examples], say: Any, balanced: bool = False
) -> Variables:
    """The weights with a head fitted on features, its penalty chosen by the validation loss."""
    read, features = passes.features(loaded, inputs), {}
    for name in ("train", "val"):
        say(f"features of {name}")
        features[name] = read(splits[name].items)
    count, best, lowest = len(splits["train"].classes), None, float("inf")
    judged = evaluation(network(backbone=identity(), head=heads.reading(loaded.head, "pooled")))
    data = jtl.data.arrays(features["val"], splits["val"].labels, batch_size=256, shuffle=False)
    loss_of = _loss(splits["train"], balanced)
    for penalty in PENALTIES:
        head = probe(features["train"], splits["train"].labels, count, decay=penalty, loss=loss_of)
        loss = evaluate(judged, head, data)["loss"]
        if loss < lowest:
            best, lowest = head, loss
    assert best is not None
    return Variables({**loaded.variables.params, "head": best.params["head"]}, loaded.variables.stats)


def _training(
    settings: Settings, loaded: Pretrained, inputs: Inputs, train: Examples
) -> tuple[Dataset | ByLength, Objective, Mask]:
    """The batches, the objective, and what is trained."""
    side = None if inputs.preprocessing is None else side_of(inputs.preprocessing)
    if train.kind == "texts":
        data = _texts(inputs, train, settings, shuffle=True)
    else:
        data = Dataset(Rows(inputs, train, 1.0 if side is None else MARGIN), settings.batch, seed=settings.seed)
    objective = finetune(loaded.network, _loss(train, settings.balanced), frozen_stats=folded(loaded.variables))
    if train.kind == "images":
        windows = () if side is None else (augment.crop(side),)
        objective = augmented(objective, augment.compose(augment.flip(), *windows))
    return data, objective, select(*trained_by(settings.ways, loaded.variables))


def _texts(inputs: Inputs, rows: Examples, settings: Settings, *, shuffle: bool) -> ByLength:
    """Batches of texts of similar length, which are tokenized once."""
    options = {"batch_size": settings.batch, "seed": settings.seed, "classes": rows.classes}
    return jtl.data.by_length(inputs.read(rows.items), rows.labels, shuffle=shuffle, **options)


def _optimizer(rate: Any) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=1e-4, mask=optim.decayed)


def _below(
    settings: Settings,
    loaded: Pretrained,
    inputs: Inputs,
    splits: dict[str, Examples],
    training: tuple[Dataset | ByLength, Objective, Mask],
    rate: float,
    say: Any,
) -> tuple[Variables, list[dict[str, Any]], str]:
    """The best variables by the validation accuracy, the start among them."""
    net, (data, objective, trained) = loaded.network, training
    val = splits["val"]
    if val.kind == "texts":
        held = _texts(inputs, val, settings, shuffle=False)
    else:
        held = jtl.data.arrays(inputs.read(val.items), val.labels, batch_size=settings.batch, shuffle=False)
    steps = settings.steps or max(50, 10 * len(data))
    tx = _optimizer(optim.warmup_cosine(rate, steps))
    step = make_step(objective, tx, trainable=trained, clip=CLIP)
    one = mesh(devices=jax.devices()[:1])
    before = evaluate(evaluation(net), loaded.variables, held, mesh=one)["accuracy"]
    every = max(1, min(len(data), steps // 10))
    # Not the loss: it grows with certainty long after the accuracy has stopped to fall.
    watched = {"watch": "accuracy", "mode": "max", "patience": settings.patience}
    validation = Validation(evaluation(net), held, every=every, **watched)
    saver = Checkpoints(
        settings.folder / "checkpoints", every=every, keep=1, recipe=f"jtl finetune {settings.data}", network=loaded
    )
    key = rng.stream(jax.random.key(settings.seed), "run")
    record = JsonLines(settings.folder / "metrics.jsonl")
    state = step.init(loaded.variables, key)
    fit(step, state, data, steps=steps, mesh=one, validation=validation, checkpoints=saver, records=[record])
    history = read_json_lines(record.path)  # of a resumed run all of it, not only what this call took
    best = saver.about(step="best")
    if before > best["metrics"]["accuracy"]:
        return loaded.variables, history, "head"
    say(f"validation accuracy {before:.3f} of the head alone, {best['metrics']['accuracy']:.3f} at step {best['step']}")
    return saver.variables(step="best"), history, settings.ways


def _loss(train: Examples, balanced: bool) -> Callable:
    if not balanced:
        return losses.cross_entropy
    count = np.bincount(train.labels, minlength=len(train.classes))
    weights = np.asarray(len(train) / (len(count) * np.maximum(count, 1)), np.float32)
    return lambda z, y: losses.cross_entropy(z, y, class_weights=weights)


def trained_by(ways: str, variables: Variables) -> tuple[str, ...]:
    """Patterns of what is trained: the head, and the last stage or block, or all."""
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
    """A source of examples that are read when they are asked for.

    Args:
      inputs: from files or texts to input.
      examples: their labels are the batches' `y`.
      margin: images are so much larger than in evaluation, for random windows.
    """

    inputs: Inputs
    examples: Examples
    margin: float

    @property
    def size(self) -> int:
        """How many."""
        return len(self.examples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.examples.classes

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """A batch."""
        del draws
        some = self.examples.rows(index)
        return {"x": self.inputs.read(some.items, margin=self.margin), "y": some.labels}

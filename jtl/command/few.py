"""Learns new classes from a few labelled examples of each: the head is made of the mean features of each class."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import rng
from jtl.command import labels, passes, source
from jtl.command import settings as files
from jtl.command.few_prototypes import closed_form, distinct, halves, held_out
from jtl.command.few_settings import FewShot
from jtl.command.file_tables import hint
from jtl.command.head import as_head
from jtl.command.inputs import texts
from jtl.command.model import Inputs, inputs_of, pretrained, side_of
from jtl.command.runs import weights_of
from jtl.command.scores import shares as shares_of
from jtl.command.scores import softmax
from jtl.command.source import Examples
from jtl.command.splits import copies, named
from jtl.data import augment
from jtl.methods.finetune.finetune import evaluation
from jtl.methods.meta.inner_loop import Adapt, adapt_to
from jtl.methods.meta.prototypes import prototypes
from jtl.methods.meta.self_supported import self_supported
from jtl.methods.meta.update_rules import from_optax
from jtl.model import Variables
from jtl.pretrained.load import Pretrained
from jtl.pretrained.save import save
from jtl.weights.formats.orbax import holds


@dataclass(frozen=True)
class Few:
    """The result of `run`.

    Args:
      loaded: the network with the saved weights.
      support: the labelled examples.
      first: for each labelled example, the index of the first equal one, [examples].
      held_out: the softmax of each labelled example by prototypes of the others, without its copies,
        [examples, classes]; NaN if its class has no other.
      query: the examples to predict.
      shares: the softmax of each query, [queries, classes].
      notes: notes for the user.
    """

    loaded: Pretrained
    support: Examples
    first: np.ndarray
    held_out: np.ndarray
    query: list[Any]
    shares: np.ndarray
    notes: list[str]

    @property
    def right(self) -> np.ndarray:
        """Whether the other examples predict the class of each example that is not alone in it, bool [judged].

        Of equal examples only the first is judged.
        """
        judged = ~np.isnan(self.held_out[:, 0]) & distinct(self.first)
        return self.held_out[judged].argmax(1) == self.support.labels[judged]


def run(settings: FewShot, say: Callable[[str], Any] = print) -> Few:
    """Learns the classes, saves the network, and predicts the queries.

    Args:
      settings: the run's settings.
      say: is called with progress messages.

    Raises:
      FileNotFoundError: for a support set, weights or queries that do not exist.
      ValueError: for fine-tuning on anything but images, queries of another kind, a table of files as a query, an
        example that is in two classes, or the checkpoints of a recipe.
    """
    files.refuse_another(settings, free=("out", "query"))
    found = source.read(settings.support, text=settings.text, label=settings.label, file=settings.file)
    support = found["train"] if "train" in found else found["all"]
    if settings.steps and support.kind != "images":
        raise ValueError(
            f"steps={settings.steps}: fine-tuning augments images, and the support set holds {support.kind}"
        )
    first = copies(support)
    place = Path(settings.weights).expanduser()
    if files.read(place) is None:
        _refuse_recipe(place)
    weights = weights_of(settings.weights)
    key = rng.stream(jax.random.key(settings.seed), "few")
    loaded = pretrained(
        weights,
        support.classes,
        arch=settings.arch,
        kind=support.kind,
        key=key,
        size=settings.size,
        hint=hint(support.kind, support.items, settings.support, settings.text),
    )
    query, passed = _queries(settings.query, support.kind, settings.text)
    inputs, loaded = inputs_of(loaded, weights, support.kind, support.items, settings.size, others=query)
    parts = (("examples", support.items), ("queries", query))
    notes = [f"{name}: {note}" for name, items in parts if items and (note := inputs.note(items)) is not None]
    notes += [*(f"queries: {note}" for note in passed), *labels.notes(support.names), *_told_copies(support, first)]
    counts = np.bincount(support.labels[distinct(first)], minlength=len(support.classes))
    range_of = f"{counts.min()}" + (f" to {counts.max()}" if counts.max() > counts.min() else "")
    say(f"{len(support.classes)} classes, {range_of} examples of each; {loaded.config.model_type}")
    features = passes.features(loaded, inputs)(support.items)
    scale, logits = held_out(features, support.labels, len(counts), first)
    if counts.max() == 1:
        notes.append("one example a class: shares rank the classes, and are not calibrated")
    by_halves: dict[str, Any] = {}
    if settings.steps:
        tuned = _tuner(settings, loaded, inputs, support, scale, key)
        if counts.min() > 1:
            say(f"{settings.steps} steps on each half of {len(support)} images, to see whether they help")
            by_halves = {"halves": _by_halves(loaded, inputs, support, first, features, tuned)}
            notes.append(told(**by_halves["halves"]))
        else:
            notes.append("a class has one example, so nothing shows whether the steps help: compare with --steps 0")
        say(f"{settings.steps} steps on {len(support)} images")
        loaded = loaded._replace(variables=tuned(np.ones(len(support), bool)))
        features = passes.features(loaded, inputs)(support.items)
        notes.append("examples are predicted from the others by the features before fine-tuning")
    head = as_head(loaded.variables.params["head"], *closed_form(features, support.labels, len(counts), scale))
    params = {**loaded.variables.params, "head": head}
    loaded = loaded._replace(variables=jax.tree.map(np.asarray, Variables(params, loaded.variables.stats)))
    shares = shares_of(passes.logits(loaded, inputs)(query)) if query else np.zeros((0, len(counts)))
    result = Few(loaded, support, first, softmax(logits), query, shares, notes)
    files.clear(settings.folder)
    save(settings.folder / "model", loaded, format="jtl")
    content = {"settings": settings.as_json(), "kind": support.kind, "classes": support.classes, "notes": notes}
    content |= {
        "mark": source.mark(settings.support, settings.text, settings.label, settings.file),
        "seconds": inputs.seconds,
    }
    alone = {"held_out": {"right": int(result.right.sum()), "of": len(result.right)}}
    files.write(settings.folder, {**content, **alone, **by_halves, "scale": scale})
    return result


def _told_copies(support: Examples, first: np.ndarray) -> list[str]:
    """Returns a note on copies among the examples, if there are any."""
    again = np.flatnonzero(~distinct(first))
    if not len(again):
        return []
    copy, other = again[0], first[again[0]]
    return [
        f"examples: {len(again)} of {len(first)} are copies of others, as {named(support.items[copy])} of"
        f" {named(support.items[other])}: an example is predicted without its copies, and counted once"
    ]


def _tuner(
    settings: FewShot, loaded: Pretrained, inputs: Inputs, support: Examples, scale: float, key: Any
) -> Callable[[np.ndarray], Variables]:
    """Returns a function that fine-tunes on a masked support set, whose augmented examples are its queries (P>M>F)."""
    side = None if inputs.preprocessing is None else side_of(inputs.preprocessing)
    moved = () if side is None else (augment.crop(side, padding=side // 8),)
    net = loaded.network
    # In evaluation mode, because so few images have poor batch statistics.
    plain = prototypes(net, train=False)

    def tuned(variables: Variables, batch: Any, scale: Any, key: Any) -> Variables:
        def scaled(params: Any, stats: Any, batch: Any, key: Any, step: Any) -> tuple[Any, Any]:
            params, stats = plain(params, stats, batch, key, step)
            kernel = params["head"]["out"]["kernel"]  # 2 c_k
            norm = jnp.sqrt(jnp.maximum(jnp.square(kernel).sum(0), 1e-24))
            out = {"kernel": scale * kernel / norm[None], "bias": jnp.zeros(len(norm))}
            return {**params, "head": {"out": out}}, stats

        inner = self_supported(Adapt(scaled, plain.init), evaluation(net), augment.compose(augment.flip(), *moved))
        adapt = adapt_to(inner, from_optax(optax.adam(settings.learning_rate)), steps=settings.steps, order=1)
        return Variables(*adapt(variables.params, variables.stats, batch, key))

    run, batch = jax.jit(tuned), {"x": inputs.read(support.items), "y": support.labels}

    def on(mask: np.ndarray) -> Variables:
        return run(loaded.variables, {**batch, "mask": mask}, jnp.float32(scale), rng.stream(key, "tune"))

    return on


def _by_halves(
    loaded: Pretrained,
    inputs: Inputs,
    support: Examples,
    first: np.ndarray,
    features: np.ndarray,
    tuned: Callable[[np.ndarray], Variables],
) -> dict[str, int]:
    """Counts the examples that the other half of the support set classifies right, without and with the steps."""
    half, y, way = halves(support.labels, first), support.labels, len(support.classes)

    def right(z: np.ndarray, known: np.ndarray) -> int:
        kernel, _ = closed_form(z[known], y[known], way, 1.0)
        judged = ~known & distinct(first)
        return int(((z[judged] @ kernel).argmax(1) == y[judged]).sum())

    before, after = 0, 0
    for h in (0, 1):
        known = half != h
        before += right(features, known)
        moved = loaded._replace(variables=tuned(known))
        after += right(passes.features(moved, inputs)(support.items), known)
    return {"without": before, "with_steps": after, "of": int(distinct(first).sum())}


def told(without: int, with_steps: int, of: int) -> str:
    """Says whether the steps help."""
    found = f"of {of} examples, the other half of them names {without} right without the steps and {with_steps} with"
    if with_steps < without:
        return f"{found}: the steps do harm here; run again without --steps"
    if with_steps == without:
        return f"{found}: nothing shows that the steps help; judge both with `jtl eval` on other examples"
    return found


def _refuse_recipe(place: Path) -> None:
    """Refuses checkpoints that do not describe their network, such as those of a recipe."""
    for folder in (place, place / "checkpoints"):
        if holds(folder) and not (folder / "config.json").is_file():
            raise ValueError(
                f"{str(folder)!r} holds checkpoints that do not say their network, as those of a recipe: start from"
                " weights, a run of `jtl finetune`, or checkpoints of jtl.Checkpoints(..., network=loaded). What was"
                " meta-trained, as by omniglot_maml, adapts in Python: jtl.learners.learner(net, adapt, variables)"
                " with variables = jtl.Checkpoints(folder).variables()"
            )


def _queries(given: tuple[str, ...], kind: str, column: str) -> tuple[list[Any], list[str]]:
    """Returns the examples to predict, and notes for the user about the folders that hold them."""
    if not given:
        return [], []
    if kind == "texts":
        return list(texts(given, column)), []
    if tables := [one for one in given if Path(one).suffix.lower() in source.TABLES]:
        raise ValueError(
            f"--query {tables[0]!r}: --query takes files and folders; predict a table afterwards with"
            f" `jtl predict RUN {shlex.quote(tables[0])}`"
        )
    suffixes = source.suffixes_of(kind)
    return list(source.files_of(given, suffixes)), source.passed_over(given, suffixes)

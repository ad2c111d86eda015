"""Trains an adaptation: batches of both domains, the trained parameters, and the choice of the checkpoint."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import jtl.data
from jtl import optim, rng
from jtl.command import adaptations
from jtl.command.adapt_settings import LOW, AdaptSettings
from jtl.command.adapt_target import Target
from jtl.command.augmentation import augmentation
from jtl.command.model import Inputs, side_of
from jtl.command.settings import begin
from jtl.command.source import Examples
from jtl.command.tune import CLIP, MARGIN, Rows, trained_by
from jtl.data.pipeline import Dataset
from jtl.methods.adapt.source_free import pseudo_labels, shot
from jtl.methods.adapt.test_time.ada_bn import ada_bn
from jtl.methods.augmented import augmented
from jtl.methods.finetune.finetune import evaluation
from jtl.model import Variables
from jtl.params import flatten, unflatten
from jtl.pretrained.folded import folded
from jtl.pretrained.load import Pretrained
from jtl.selection.validators.watch import ORACLE, label_free
from jtl.train import Checkpoints, JsonLines, Refresh, Turn, Validation, fit, make_step, read_json_lines
from jtl.train.state import variables as variables_of
from jtl.typing import Mask

SHOWN = ("im", "bnm", "snd", "clustering", "certainty", "diversity", "source_accuracy")
"""The scores in every report."""
FREE = ("out", "devices")
"""Settings that may differ when a run resumes. Steps may not, because the schedules of weights depend on them."""
BODY = 0.1
"""The learning rate of the backbone relative to that of head and critics, as in Ganin et al. and Long et al."""


def batch_of(settings: AdaptSettings, splits: dict[str, Examples], target: Target) -> int:
    """Returns the examples per step of each domain; further rows of a batch would be empty."""
    return min(settings.batch, max(len(splits["train"]), len(target.examples)))


class Training:
    """The parts of a run's training that its stages share.

    Args:
      settings: the run's settings.
      loaded: the network, with a head that is fitted on the source.
      inputs: converts files or texts to the network's input.
      splits: the source's examples.
      target: the target's examples.
      spread: the mesh that trains.
      say: is called with progress messages.
    """

    def __init__(
        self,
        settings: AdaptSettings,
        loaded: Pretrained,
        inputs: Inputs,
        splits: dict[str, Examples],
        target: Target,
        spread: Mesh,
        say: Callable[[str], Any],
    ):
        self.settings, self.loaded, self.inputs, self.splits = settings, loaded, inputs, splits
        self.target, self.say, self.net = target, say, loaded.network
        self.side = None if inputs.preprocessing is None else side_of(inputs.preprocessing)
        self.own = trained_by(settings.ways, loaded.variables)
        stats = flatten(loaded.variables.stats) if folded(loaded.variables) else {}
        self.fixed = {path.rpartition("/")[0] for path in stats}
        self.key = jax.random.key(settings.seed)
        size, examples = min(settings.scored, len(target.examples)), target.examples
        rows = np.sort(np.random.default_rng(settings.seed).permutation(len(examples))[:size])
        y = rows if target.labels is None else target.labels[rows]
        self.batch, self.mesh = batch_of(settings, splits, target), spread
        options = {"batch_size": self.batch, "shuffle": False}
        looked = jtl.data.arrays(inputs.read([examples.items[i] for i in rows]), y, **options)
        self.held = jtl.data.arrays(inputs.read(splits["val"].items), splits["val"].labels, **options)
        self.watched = ORACLE if settings.oracle else settings.watch
        asked = dict.fromkeys((*SHOWN, *(() if settings.oracle else (settings.watch,))))
        self.look = label_free(self.net, looked, list(asked), source=self.held, oracle=settings.oracle)
        data = self.batches(splits["train"]), self.batches(target.examples)
        self.pairs = jtl.data.pair(*data)
        self.steps = settings.steps or max(50, 10 * len(self.pairs))

    def batches(self, examples: Examples, margin: bool = True) -> Dataset:
        """Returns random batches, or, without margin, all rows in order as in evaluation."""
        rows = Rows(self.inputs, examples, MARGIN if margin and self.side is not None else 1.0)
        return Dataset(rows, self.batch, seed=self.settings.seed, shuffle=margin)

    def run(self) -> tuple[Variables, dict[str, dict[str, float]], int, list[dict[str, Any]]]:
        """Trains; returns the best variables by the score, the scores before and after, the step, and the history."""
        settings, start = self.settings, self.loaded.variables
        name, scores = settings.method, {"before": self.look(self.loaded.variables)}
        folder = settings.folder
        if name in adaptations.AFTER_SOURCE:
            made = adaptations.plan("source", self.net, len(self.splits["train"].classes), self.steps)
            self.say("fine-tuning on the source")
            state, _ = self.fit(made.objective, made.groups, self.pairs, start, folder / "source", None)
            start = self.own_part(variables_of(state))
            self.say(name)
        if name == "ada_bn":
            data = self.batches(self.target.examples, margin=False)
            found = ada_bn(self.net, start, (data[i]["x"] for i in range(len(data))))
            history = read_json_lines(folder / "source" / "metrics.jsonl")
            return *self.chosen(scores, self.look(found), lambda: found, self.steps), history
        refresh, data = None, self.pairs
        if name == "shot":
            rows = len(self.target.examples)
            weight = adaptations.SHOT_WEIGHT if settings.weight is None else settings.weight
            data, objective, groups = self.batches(self.target.examples), shot(self.net, rows, weight=weight), None
            look = pseudo_labels(self.net, self.batches(self.target.examples, margin=False))
            refresh = Refresh(look, every=len(data))
            groups = (("backbone/.*",),)
        else:
            made = adaptations.plan(name, self.net, len(self.splits["train"].classes), self.steps, settings.weight)
            objective, groups = made.objective, made.groups
        _, saver = self.fit(objective, groups, data, start, folder, refresh)
        history, best = read_json_lines(folder / "metrics.jsonl"), saver.about(step="best")
        found = {name: best["metrics"][name] for name in scores["before"]}
        return *self.chosen(scores, found, lambda: self.own_part(saver.variables(step="best")), best["step"]), history

    def chosen(
        self, scores: dict[str, Any], found: dict[str, float], adapted: Callable[[], Variables], step: int
    ) -> tuple[Variables, dict[str, dict[str, float]], int]:
        """Returns the adapted variables if their score is better than before; else those before, and step 0."""
        sign = -1 if self.watched in LOW else 1
        if sign * scores["before"][self.watched] >= sign * found[self.watched]:
            return self.loaded.variables, {**scores, "after": scores["before"]}, 0
        return adapted(), {**scores, "after": found}, step

    def fit(
        self, objective: Any, groups: Sequence[tuple[str, ...]], data: Any, start: Variables, folder: Path, refresh: Any
    ) -> tuple[Any, Checkpoints]:
        """Trains one stage, resuming from its checkpoints."""
        if (moved := augmentation(self.inputs)) is not None:
            objective = (
                [Turn(augmented(t.objective, moved), t.by, t.repeat, t.name) for t in objective]
                if isinstance(objective, list)
                else augmented(objective, moved)
            )
        variables = adaptations.first(objective).init(rng.stream(self.key, "critic"), data[0], start)
        masks = [self.trained(group) for group in groups]
        txs = [self.optimizer(mask, variables) for mask in masks]
        step, every = make_step(objective, txs, trainable=masks, clip=CLIP), max(1, self.steps // 10)
        mode = "min" if self.watched in LOW else "max"
        validation = Validation(
            evaluation(self.net), self.held, every=every, watch=self.watched, mode=mode, also=[self.look]
        )
        recipe = shlex.join(["jtl", "adapt", str(self.settings.source), str(self.settings.target)])
        saver = Checkpoints(folder / "checkpoints", every=every, keep=1, recipe=recipe)
        begin(self.settings, saver, free=FREE)
        state = step.init(variables, rng.stream(self.key, "run"))
        done = fit(
            step, state, data, steps=self.steps, mesh=self.mesh, validation=validation, checkpoints=saver,
            refresh=refresh, records=[JsonLines(folder / "metrics.jsonl")],
        )  # fmt: skip
        return done.state, saver

    def trained(self, group: Sequence[str]) -> Mask:
        """Returns the mask of a group's trained parameters: those of `--ways`, and all that are not pretrained."""
        patterns = (*self.own, r"(?!backbone/|head/).*")

        def among(path: str, patterns: Sequence[str]) -> bool:
            return any(re.fullmatch(pattern, path) for pattern in patterns)

        def mask(params: Any) -> Any:
            chosen = {
                path: among(path, group) and among(path, patterns) and path.rpartition("/")[0] not in self.fixed
                for path in flatten(params)
            }
            return unflatten(chosen)

        return mask

    def optimizer(self, mask: Mask, variables: Variables) -> optax.GradientTransformation:
        """Returns AdamW with a lower learning rate for the backbone."""
        trained = {path for path, own in flatten(mask(variables.params)).items() if own}
        table = [("backbone/.*", 1.0), (".*", 1.0 / BODY)]
        table = [rule for rule in table if any(p.startswith("backbone/") == (rule[1] == 1.0) for p in trained)]
        rate = optim.warmup_cosine(self.settings.learning_rate, self.steps)
        return optax.chain(optax.adamw(rate, weight_decay=1e-4, mask=optim.decayed), optim.scale(table))

    def own_part(self, variables: Variables) -> Variables:
        """Returns the variables without critics, second heads and pseudo-labels."""
        own = self.loaded.variables
        return Variables(
            {name: variables.params[name] for name in own.params}, {name: variables.stats[name] for name in own.stats}
        )

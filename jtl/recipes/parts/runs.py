"""One run of `fit` in a recipe: its settings and its files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax

from jtl import optim, report
from jtl.model import Variables
from jtl.objective import Objective
from jtl.params import select
from jtl.paths import local
from jtl.recipes.parts.base import positive
from jtl.train.checkpoint.checkpoints import Checkpoints
from jtl.train.evaluate import Validation
from jtl.train.loop import Fitted, fit
from jtl.train.parallel.sharding import mesh
from jtl.train.records import JsonLines
from jtl.train.step import make_step
from jtl.typing import Key, Mask


def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a warm-up and a cosine schedule."""
    return optax.adam(optim.warmup_cosine(learning_rate, steps))


@dataclass(frozen=True)
class TrainRun:
    """One run of `fit`.

    Args:
      steps: the number of training steps.
      batch: the number of rows in a step.
      learning_rate: the peak of the learning rate.
      every: the number of steps between checkpoints.
      optimizer: a function from (learning_rate, steps) to an optax optimizer.
    """

    steps: int
    batch: int
    learning_rate: float
    every: int = 500
    optimizer: Callable[[float, int], optax.GradientTransformation] = adam

    def __post_init__(self) -> None:
        positive(steps=self.steps, batch=self.batch, learning_rate=self.learning_rate, every=self.every)

    def run(
        self,
        objective: Objective | Sequence[Any],
        variables: Variables,
        data: Any,
        out: Path,
        *,
        text: str,
        key: Key,
        trainable: Mask | Sequence[Mask] | None = None,
        validation: Validation | None = None,
    ) -> Fitted:
        """Trains from `variables`, or resumes from the checkpoints under `out`; plots its learning curve.

        Args:
          objective: the objective to minimise, or turns or phases.
          variables: the variables at the start.
          data: a data set.
          out: the stage's folder; `checkpoints`, `metrics.jsonl` and `curve.png` go there.
          text: the command, kept with the checkpoints.
          key: the key of the run.
          trainable: the parameters to train; several masks for turns, each with its own optimizer.
          validation: what to evaluate, and how often.
        """
        out = local(out, "out")
        masks = trainable if isinstance(trainable, Sequence) else (trainable or select(".*"),)
        tx = [self.optimizer(self.learning_rate, self.steps) for _ in masks]
        step = make_step(objective, tx, trainable=masks)
        rows = min(len(jax.devices()), self.batch)
        found = fit(
            step,
            step.init(variables, key),
            data,
            steps=self.steps,
            mesh=_mesh(rows),
            validation=validation,
            checkpoints=Checkpoints(out / "checkpoints", every=self.every, keep=2, recipe=text),
            records=[JsonLines(out / "metrics.jsonl")],
        )
        losses = [line["loss"] for line in found.history if line["split"] == "train"]
        if losses:
            report.curves({"training": losses}, out / "curve.png", title=out.name)
        return found


def _mesh(most: int) -> Any:
    return mesh(devices=jax.devices()[: max(most, 1)])

"""Spoken digits of a new speaker from one clip of each digit, with pre-training on five other speakers.

    jtl train spoken_digits --data FOLDER        (or JTL_DATA; it holds speech/spoken_digits.zip)
    jtl eval runs/spoken_digits/checkpoints
    jtl predict runs/spoken_digits/checkpoints SOUND...

Each of the six speakers in turn is new: a small network is pre-trained on the clips 5-49 of the other five, learns from
one clip of each digit, and is judged on the new speaker's clips 0-4, the official test set. Expect these accuracies in
percent, mean and deviation over the six speakers, each the mean of three draws of the clips: from scratch 44.8 ± 12.8,
the other speakers' network as it is 67.7 ± 8.1, feature extraction 79.9 ± 7.5, fine-tuning 82.0 ± 8.9 (jax 0.10.2, nine
minutes on two busy cores).

Training from scratch is steadier without batch statistics: with them, and one draw, it reached 50.7 on the first three
speakers (51.3 with three times the rate, 51.3 with 400 steps), and 12 on the fourth.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import heads, metrics, report, rng
from jtl.backbones import conv4
from jtl.methods.finetune.features import features
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.objective import Objective
from jtl.params import select
from jtl.recipes.parts import base, spoken_data
from jtl.recipes.parts.checkpoint_folder import check_own, replace_checkpoint
from jtl.recipes.parts.comparison import Comparison, failures, numbers, rows
from jtl.recipes.parts.seeds import drawn
from jtl.recipes.parts.spoken_data import SPEAKERS, Clips
from jtl.train.state import State, variables
from jtl.train.step import make_step
from jtl.typing import Batch, Key

DIGITS = tuple("0123456789")
HEAD = heads.linear(10)


@dataclass(frozen=True)
class Numbers:
    """The settings of one kind of run.

    Args:
      steps: the steps of Adam, whose rate falls as a cosine to zero.
      learning_rate: the first rate.
    """

    steps: int
    learning_rate: float

    def __post_init__(self) -> None:
        base.positive(steps=self.steps, learning_rate=self.learning_rate)


@dataclass(frozen=True)
class Recipe:
    """Each speaker in turn is new: pre-training on the others, then three ways to learn from a few clips.

    Args:
      out: the folder of the table and the fine-tuned network of the first new speaker.
      data: the folder of real data; None for the environment's JTL_DATA.
      seed: the root of all randomness.
      speakers: the number of speakers that are left out in turn, from the first on.
      shot: the number of clips of each digit from the new speaker.
      draws: the number of draws of those clips, each with its own runs, whose accuracies are averaged.
      batch: the number of clips of a pre-training step.
      shift: a clip begins later by a random number of frames of 10 ms below this, drawn each time it is seen.
      backbone: the backbone.
      pretrain: pre-training on the other speakers.
      scratch: training from random weights on the few clips; like `extract` and `tune`, without batch statistics.
      extract: training of the last layer only.
      tune: training of all layers.
    """

    out: Path = Path("runs/spoken_digits")
    data: Path | None = None
    seed: int = 0
    speakers: int = len(SPEAKERS)
    shot: int = 1
    draws: int = 3
    batch: int = 64
    shift: int = 30
    backbone: Model = conv4(32)
    pretrain: Numbers = field(default_factory=lambda: Numbers(300, 3e-3))
    scratch: Numbers = field(default_factory=lambda: Numbers(150, 3e-3))
    extract: Numbers = field(default_factory=lambda: Numbers(150, 1e-2))
    tune: Numbers = field(default_factory=lambda: Numbers(150, 3e-4))

    def __post_init__(self) -> None:
        base.seeded(self.seed)
        base.positive(speakers=self.speakers, shot=self.shot, draws=self.draws, batch=self.batch, shift=self.shift)
        if self.speakers > len(SPEAKERS):
            raise ValueError(f"speakers={self.speakers}: there are only {len(SPEAKERS)}")

    def train(self) -> dict[str, Any]:
        """Runs everything, prints the table, writes it and a checkpoint to `out`."""
        check_own(self.out / "checkpoints", "spoken_digits")
        clips, text = spoken_data.load(base.find(self.data, spoken_data.FILE)), base.command("spoken_digits", self)
        tuned = finetune(self._net(), frozen_stats=True)
        ways = {
            "from scratch": self._run(tuned, self.scratch),
            "feature extraction": self._run(features(self._net()), self.extract, "head/.*"),
            "fine-tuning": self._run(tuned, self.tune),
        }
        pretrain = self._run(finetune(self._net()), self.pretrain, batch=self.batch)
        accuracy: dict[str, list[float]] = {name: [] for name in ("from scratch", "other speakers alone", *ways)}
        began, predict = time.monotonic(), jax.jit(predictor(self._net()))
        for new in range(self.speakers):
            print(f"{time.monotonic() - began:5.0f} s  {SPEAKERS[new]} is new", flush=True)
            key = rng.stream(jax.random.key(self.seed), "speaker", new)
            fresh = self._fresh(key)
            others = (clips.speaker != new) & ~clips.test
            warm = variables(pretrain(fresh, key, _batch(clips, others)))
            accuracy["other speakers alone"].append(_accuracy(predict, warm, clips, new))
            few = [_batch(clips, self._few(clips, new, draw)) for draw in range(self.draws)]
            for name, run in ways.items():
                states = [run(fresh if name == "from scratch" else warm, key, batch) for batch in few]
                right = [_accuracy(predict, variables(state), clips, new) for state in states]
                accuracy[name].append(float(np.mean(right)))
                if name == "fine-tuning" and new == 0:
                    self._save(states[0], text)
        # Gains are reported over the last baseline that a way must beat.
        pairs = {"other speakers alone": ("fine-tuning",), "from scratch": ("feature extraction", "fine-tuning")}
        title = f"{self.shot} clip{'s' if self.shot > 1 else ''} of each digit"
        found = Comparison(title, pairs, {k: np.array(v) for k, v in accuracy.items()}, {})
        title = f"a new speaker's digits, test accuracy in percent, mean and deviation over {self.speakers} speakers"
        table = report.Table(title, ("of the new speaker", "way", "accuracy", "gain"), rows(found))
        report.show(table)
        (self.out / "table.md").write_text(report.markdown(table) + "\n")
        return {"failed": failures([found]), **numbers([found])}

    def network(self) -> base.Network:
        """The network fine-tuned to the first speaker."""
        fresh = self._fresh(jax.random.key(self.seed))
        rate = self.tune.learning_rate
        return base.Network(fresh, self._net(), select(".*"), rate, DIGITS, spoken_data.read)

    def evaluate(self, variables: Variables) -> dict[str, float]:
        """Accuracy on the first speaker's test clips."""
        clips = spoken_data.load(base.find(self.data, spoken_data.FILE))
        return {"accuracy": _accuracy(predictor(self._net()), variables, clips, 0)}

    def _fresh(self, key: Key) -> Variables:
        example = np.zeros((1, *spoken_data.SHAPE), np.float32)
        return self._net().init(rng.stream(key, "weights"), example)

    def _net(self) -> Model:
        return network(backbone=self.backbone, head=HEAD)

    def _run(
        self, objective: Objective, of: Numbers, trainable: str = ".*", batch: int | None = None
    ) -> Callable[[Variables, Key, Batch], State]:
        """A whole run as one program, compiled once for all speakers: on random batches, or all clips in each step."""
        schedule = optax.cosine_decay_schedule(of.learning_rate, of.steps)
        step = make_step(objective, optax.adam(schedule), trainable=select(trainable))

        def run(variables: Variables, key: Key, data: Batch) -> State:
            def body(state: State, i: Any) -> tuple[State, None]:
                rows = data if batch is None else drawn(dict(data), rng.stream(key, "batch", i), batch)
                x = self._shifted(rng.stream(key, "shift", i), rows["x"])
                return step(state, {**rows, "x": x})[0], None

            return jax.lax.scan(body, step.init(variables, key), jnp.arange(of.steps))[0]

        return jax.jit(run)

    def _shifted(self, key: Key, x: Any) -> Any:
        """Shifts clips later in time; frames beyond the end, usually silence, move to the beginning."""
        frames = jax.random.randint(key, (len(x),), 0, self.shift)
        return jax.vmap(lambda picture, by: jnp.roll(picture, by, 0))(x, frames)

    def _few(self, clips: Clips, new: int, number: int) -> np.ndarray:
        draw = np.random.default_rng((self.seed, new, number))
        known = (clips.speaker == new) & ~clips.test
        chosen = [draw.choice(np.flatnonzero(known & (clips.y == d)), self.shot, replace=False) for d in range(10)]
        return np.concatenate(chosen)

    def _save(self, state: State, text: str) -> None:
        replace_checkpoint(self.out / "checkpoints", state, text)  # an older run's has another length


def _accuracy(predict: Callable, variables: Variables, clips: Clips, new: int) -> float:
    held = (clips.speaker == new) & clips.test
    return float(metrics.accuracy(predict(variables, clips.x[held]), jnp.asarray(clips.y[held])).mean())


def _batch(clips: Clips, rows: np.ndarray) -> Batch:
    return {"x": jnp.asarray(clips.x[rows]), "y": jnp.asarray(clips.y[rows])}

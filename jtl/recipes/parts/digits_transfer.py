"""Stage (a): what was learned on digits 0-4 helps with five images each of 5-9."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import heads, rng
from jtl.methods.finetune.features import features
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.params import select
from jtl.recipes.parts import digits_data
from jtl.recipes.parts.base import positive
from jtl.recipes.parts.comparison import Comparison
from jtl.recipes.parts.seeds import Keys, drawn, tiled, train_seeds
from jtl.train.state import State, variables
from jtl.train.step import make_step
from jtl.typing import Key

OLD, NEW = range(5), range(5, 10)
LAST = "backbone/stage[234]/.*|head/.*"
STAGES = ("stage2", "stage3")


@dataclass(frozen=True)
class Transfer:
    """Numbers of stage (a).

    Args:
      shot: labelled images of each new class.
      noise: its standard deviation, black to white being 1.
      pretrain_steps: on digits 0-4.
      pretrain_batch: images of a pre-training step.
      pretrain_lr: peak of its cosine schedule.
      steps: with the few new images, in each of the four ways.
      scratch_lr: of training from scratch; 1e-4, 3e-4 and 1e-3 get within 0.3 points of each other.
      head_lr: of a new head on frozen features.
      tune_lr: of pre-trained layers.
      optimizer: from a rate to an optax optimizer.
    """

    shot: int = 5
    noise: float = 0.5
    pretrain_steps: int = 1000
    pretrain_batch: int = 128
    pretrain_lr: float = 3e-3
    steps: int = 150
    scratch_lr: float = 3e-4
    head_lr: float = 1e-2
    tune_lr: float = 1e-3
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam

    def __post_init__(self) -> None:
        positive(shot=self.shot, steps=self.steps)
        positive(pretrain_steps=self.pretrain_steps, pretrain_batch=self.pretrain_batch)
        positive(pretrain_lr=self.pretrain_lr, scratch_lr=self.scratch_lr, head_lr=self.head_lr, tune_lr=self.tune_lr)


class Tuned(NamedTuple):
    """The fine-tuned runs: states, held-out images, labels, and predictions [seeds, images]."""

    states: State
    x: np.ndarray
    y: np.ndarray
    predicted: np.ndarray


def run(body: Model, options: Transfer, x: np.ndarray, y: np.ndarray, keys: Keys) -> tuple[Comparison, Tuned]:
    """Pre-trains on 0-4, then learns 5-9 in four ways; the second half of the writers is held out."""
    seeds, half = len(keys), len(x) // 2
    seen = views(options, x)
    old, held = y < 5, held_out(y)
    start, source = pretrain(body, options, x[old], y[old], keys)
    rows = np.stack([digits_data.support(y[:half], NEW, options.shot, s) for s in range(seeds)])
    few = {"x": jnp.asarray(seen[rows]), "y": jnp.asarray(y[rows] - 5)}
    net = network(backbone=body, head=heads.linear(len(NEW)))
    fused_net = network(backbone=body, head=heads.linear(len(NEW), reads=STAGES))
    fresh = jax.vmap(lambda k: net.init(rng.stream(k, "fresh"), x[:1]))(keys)
    warm = Variables({**fresh.params, "backbone": source.params["backbone"]}, source.stats)
    tuned = finetune(net, frozen_stats=True)
    fused = jax.vmap(lambda k: fused_net.init(k, x[:1]))(keys)
    fused = Variables({**warm.params, "head": fused.params["head"]}, warm.stats)
    ways = {
        "from scratch": (tuned, fresh, ".*", options.scratch_lr, net),
        "feature extraction": (features(fused_net), fused, "head/.*", options.head_lr, fused_net),
        "last layers only": (tuned, warm, LAST, options.tune_lr, net),
        "fine-tuning": (tuned, warm, ".*", options.tune_lr, net),
    }
    accuracy, curves, found = {}, {"pre-training": start["loss"]}, None
    for name, (objective, begin, pattern, rate, own) in ways.items():
        step = make_step(objective, options.optimizer(rate), trainable=select(pattern))
        states, metrics = train_seeds(step, begin, keys, few, lambda data, key: data, options.steps)
        predict = jax.vmap(lambda v, x, own=own: predictor(own)(v, x).argmax(-1), in_axes=(0, None))
        predicted = np.asarray(jax.jit(predict)(variables(states), seen[held]))
        accuracy[name] = (predicted == y[held] - 5).mean(1)
        curves[name] = metrics["loss"]
        found = Tuned(states, seen[held], y[held] - 5, predicted)
    assert found is not None
    title = f"(a) digits 0-4 to 5-9, {options.shot} images a class, in noise"
    return Comparison(title, {"from scratch": tuple(ways)[1:]}, accuracy, curves), found


def views(options: Transfer, x: np.ndarray) -> np.ndarray:
    """The images as learning and test see them: each in one noise, once and for all."""
    return np.asarray(digits_data.noisy(jax.random.key(0), x, options.noise))


def held_out(y: np.ndarray) -> np.ndarray:
    """Which images test: digits 5-9 of the second half of the writers."""
    return (y >= 5) & (np.arange(len(y)) >= len(y) // 2)


def pretrain(body: Model, options: Transfer, x: np.ndarray, y: np.ndarray, keys: Keys) -> tuple[dict, Variables]:
    """Classifies digits 0-4 and the way up, in fresh noise: four turns of five digits are twenty classes."""
    turned = np.concatenate([np.rot90(x, k, (1, 2)) for k in range(4)])
    labels = np.concatenate([y + len(OLD) * k for k in range(4)])
    net = network(backbone=body, head=heads.linear(4 * len(OLD)))
    begin = jax.vmap(lambda k: net.init(rng.stream(k, "pretrain"), x[:1]))(keys)
    rate = optax.cosine_decay_schedule(options.pretrain_lr, options.pretrain_steps)
    step = make_step(finetune(net), options.optimizer(rate))
    data = tiled({"x": turned, "y": labels}, len(keys))

    def batch(data: Any, key: Key) -> Any:
        rows = drawn(data, key, options.pretrain_batch)
        return {**rows, "x": digits_data.noisy(rng.stream(key, "noise"), rows["x"], options.noise)}

    states, metrics = train_seeds(step, begin, keys, data, batch, options.pretrain_steps)
    return metrics, variables(states)

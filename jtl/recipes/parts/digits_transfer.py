"""Stage (a): a network of upright digits learns turned ones from one labelled image of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import heads, rng
from jtl.data import augment
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

DIGITS = range(10)
LAST = "backbone/stage[234]/.*|head/.*"


@dataclass(frozen=True)
class Transfer:
    """Settings of stage (a).

    Args:
      degrees: the angle by which the new images are turned.
      shot: the number of labelled new images of each digit.
      noise: the standard deviation of the noise, with 1 from black to white.
      pretrain_steps: the number of steps on upright digits.
      pretrain_batch: the number of images in a pre-training step.
      pretrain_lr: the peak of the cosine schedule of pre-training.
      steps: the number of steps with the few new images, in each way.
      scratch_lr: the rate of training from scratch; 3e-4 and 3e-3 are no better.
      head_lr: the rate of the head on frozen features.
      tune_lr: the rate of pre-trained layers.
      optimizer: a function from a rate to an optax optimizer.
    """

    degrees: float = 25.0
    shot: int = 1
    noise: float = 0.1
    pretrain_steps: int = 600
    pretrain_batch: int = 64
    pretrain_lr: float = 3e-3
    steps: int = 150
    scratch_lr: float = 1e-3
    head_lr: float = 3e-3
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
    """Pre-trains on the first half of the writers, then learns the turned digits of the next quarter in three ways.

    The last quarter is the test. The baselines are the pre-trained network as it is and training from scratch; gains
    are over the better of the two.
    """
    seeds, half = len(keys), len(x) // 2
    seen, held = views(options, x), held_out(y)
    net = network(backbone=body, head=heads.linear(len(DIGITS)))
    start, warm = pretrain(net, options, x[:half], y[:half], keys)
    new = y[half : 3 * len(x) // 4]
    rows = half + np.stack([digits_data.support(new, DIGITS, options.shot, s) for s in range(seeds)])
    few = {"x": jnp.asarray(seen[rows]), "y": jnp.asarray(y[rows])}
    fresh = jax.vmap(lambda k: net.init(rng.stream(k, "fresh"), x[:1]))(keys)
    predict = jax.jit(jax.vmap(lambda v, x: predictor(net)(v, x).argmax(-1), in_axes=(0, None)))
    tuned = finetune(net, frozen_stats=True)
    ways = {
        "from scratch": (tuned, fresh, ".*", options.scratch_lr),
        "the head only": (features(net), warm, "head/.*", options.head_lr),
        "last layers only": (tuned, warm, LAST, options.tune_lr),
        "fine-tuning": (tuned, warm, ".*", options.tune_lr),
    }
    accuracy = {"as pre-trained": (np.asarray(predict(warm, seen[held])) == y[held]).mean(1)}
    curves, found = {"pre-training": start["loss"]}, None
    for name, (objective, begin, pattern, rate) in ways.items():
        step = make_step(objective, options.optimizer(rate), trainable=select(pattern))
        states, metrics = train_seeds(step, begin, keys, few, lambda data, key: data, options.steps)
        predicted = np.asarray(predict(variables(states), seen[held]))
        accuracy[name] = (predicted == y[held]).mean(1)
        curves[name] = metrics["loss"]
        found = Tuned(states, seen[held], y[held], predicted)
    assert found is not None
    images = "one labelled image" if options.shot == 1 else f"{options.shot} labelled images"
    title = f"(a) upright digits to digits turned by {options.degrees:g}°, {images} of each"
    base = max(("as pre-trained", "from scratch"), key=lambda name: accuracy[name].mean())
    return Comparison(title, {base: tuple(ways)[1:]}, accuracy, curves), found


def views(options: Transfer, x: np.ndarray) -> np.ndarray:
    """The images for learning and test: turned, each with one fixed draw of noise."""
    turned = augment.rotate_by(x, np.full(len(x), options.degrees, np.float32))
    return np.asarray(digits_data.noisy(jax.random.key(0), turned, options.noise))


def held_out(y: np.ndarray) -> np.ndarray:
    """Which images are the test: those of the last quarter of the writers."""
    return np.arange(len(y)) >= 3 * len(y) // 4


def pretrain(net: Model, options: Transfer, x: np.ndarray, y: np.ndarray, keys: Keys) -> tuple[dict, Variables]:
    """Trains a classifier of upright digits with fresh noise in each step; returns its metrics and variables."""
    begin = jax.vmap(lambda k: net.init(rng.stream(k, "pretrain"), x[:1]))(keys)
    rate = optax.cosine_decay_schedule(options.pretrain_lr, options.pretrain_steps)
    step = make_step(finetune(net), options.optimizer(rate))

    def batch(data: Any, key: Key) -> Any:
        rows = drawn(data, key, options.pretrain_batch)
        return {**rows, "x": digits_data.noisy(rng.stream(key, "noise"), rows["x"], options.noise)}

    states, metrics = train_seeds(step, begin, keys, tiled({"x": x, "y": y}, len(keys)), batch, options.pretrain_steps)
    return metrics, variables(states)

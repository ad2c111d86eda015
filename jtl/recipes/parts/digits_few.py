"""Stage (c): MAML and a classifier, both trained on digits 0-6, against training from scratch, on digits 7, 8, 9."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jtl import data as jtl_data
from jtl import heads, rng
from jtl.methods.finetune.finetune import finetune
from jtl.methods.meta.inner_loop import Adapt, adapt_to
from jtl.methods.meta.maml import maml
from jtl.methods.meta.update_rules import fixed_rate, from_optax
from jtl.metrics import accumulate
from jtl.model import Model, Variables
from jtl.networks import network
from jtl.objective import Objective
from jtl.params import select
from jtl.recipes.parts import digits_data
from jtl.recipes.parts.base import positive
from jtl.recipes.parts.comparison import Comparison
from jtl.recipes.parts.seeds import Keys, drawn, tiled, train_seeds
from jtl.train.state import variables
from jtl.train.step import make_step
from jtl.typing import Key

SEEN, UNSEEN = range(7), range(7, 10)
QUERY = 10


@dataclass(frozen=True)
class Few:
    """Settings of stage (c).

    Args:
      shots: numbers of labelled images of each class of a task, one row of the table for each.
      way: the number of classes of a task; only three digits are unseen.
      tasks: the number of tasks in a meta-step.
      steps: the number of meta-steps, and of steps of the classifier.
      inner_lr: the learning rate of the inner loop.
      inner_steps: the number of inner steps in training.
      test_steps: the number of inner steps in the test.
      learning_rate: the learning rate of the meta-step.
      batch: the number of images in a step of the classifier.
      classifier_lr: the peak of the classifier's cosine schedule.
      scratch_lr: the rate of training from scratch by Adam, the best of 1e-3, 3e-3, 1e-2, and of a new head on the
        classifier, for which 1e-2 and 3e-2 are within a point.
      scratch_steps: the number of steps of these two, many more than MAML takes.
      test_tasks: the number of tasks of unseen digits per seed.
      optimizer: a function from a rate to an optax optimizer.
    """

    shots: tuple[int, ...] = (1, 5)
    way: int = 3
    tasks: int = 8
    steps: int = 600
    inner_lr: float = 0.1
    inner_steps: int = 5
    test_steps: int = 20
    learning_rate: float = 2e-3
    batch: int = 128
    classifier_lr: float = 3e-3
    scratch_lr: float = 3e-3
    scratch_steps: int = 50
    test_tasks: int = 100
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam

    def __post_init__(self) -> None:
        positive(way=self.way, tasks=self.tasks, steps=self.steps, batch=self.batch, test_tasks=self.test_tasks)
        positive(inner_steps=self.inner_steps, test_steps=self.test_steps, scratch_steps=self.scratch_steps)
        positive(inner_lr=self.inner_lr, learning_rate=self.learning_rate)
        positive(classifier_lr=self.classifier_lr, scratch_lr=self.scratch_lr)
        if self.way > len(UNSEEN):
            raise ValueError(f"way={self.way}: only {len(UNSEEN)} digits are unseen in meta-training")
        if not self.shots:
            raise ValueError("shots=(): give at least one number of labelled images a class")
        positive(**{f"shots[{i}]": shot for i, shot in enumerate(self.shots)})


def run(body: Model, options: Few, x: np.ndarray, y: np.ndarray, keys: Keys) -> Comparison:
    """One meta-training per number of shots, and one classifier; all ways get the same test tasks and the same network.

    The body of the classifier is kept, and a new head learns from a task's few images.

    In every task the ink of each image is at random bright on dark or dark on bright: pixels alone mislead, and that a
    digit is the same in both can be learned from other digits. Digits 0-6 upright, turned by ±90° and mirrored are 42
    classes to draw tasks from, and for the classifier to tell apart (a 6 turned by 180° would be a 9).
    """
    seen = digits_data.by_class(x, y, SEEN)
    seen = np.concatenate([np.rot90(way, k, (2, 3)) for way in (seen, seen[:, :, :, ::-1]) for k in (0, 1, 3)])
    unseen = digits_data.by_class(x, y, UNSEEN)
    net = network(backbone=body, head=heads.linear(options.way, zero_init=True))
    inner = finetune(net)
    begin = jax.vmap(lambda k: net.init(rng.stream(k, "few"), x[:1]))(keys)
    if jax.tree.leaves(begin.stats):
        raise ValueError(
            "the network of stage (c) has batch statistics: give one without, or say which tasks they are of"
        )
    rule, by_adam = fixed_rate(options.inner_lr), from_optax(options.optimizer(options.scratch_lr))
    known, told = _classifier(body, options, seen, begin, keys)
    pairs, others, accuracy, curves = {}, {}, {}, {"classifier": told["loss"]}
    every = adapt_to(inner, by_adam, steps=options.scratch_steps, order=1)
    head = adapt_to(inner, by_adam, steps=options.scratch_steps, order=1, adapted=select("head/.*"))
    steps = adapt_to(inner, rule, steps=options.test_steps, order=1)
    for shot in options.shots:
        step = make_step(maml(inner, rule, steps=options.inner_steps), options.optimizer(options.learning_rate))

        def batch(pool: Any, key: Key, shot: int = shot) -> Any:
            return _tasks(options, pool, key, options.tasks, shot)

        states, metrics = train_seeds(step, begin, keys, tiled(seen, len(keys)), batch, options.steps)
        curves[f"MAML, {shot}-shot"] = metrics["loss"]
        ways = {
            "from scratch": (every, begin),
            "classifier": (head, known),
            "MAML": (steps, variables(states)),
        }
        names = [f"{name}, {shot}-shot" for name in ways]
        for name, (adapt, start) in zip(names, ways.values(), strict=True):
            accuracy[name] = _test(options, inner, adapt, start, unseen, shot, keys)
        pairs[names[0]], others[names[0]] = (names[2],), (names[1],)
    title = f"(c) {options.way} unseen digits, 7 to 9, learned on 0-6, ink bright or dark"
    return Comparison(title, pairs, accuracy, curves, others)


def _classifier(
    body: Model, options: Few, seen: np.ndarray, begin: Variables, keys: Keys
) -> tuple[Variables, dict[str, Any]]:
    """Trains a classifier of the seen classes; returns its body below every way's initial head, and metrics."""
    net = network(backbone=body, head=heads.linear(len(seen)))
    data = {"x": seen.reshape(-1, *seen.shape[2:]), "y": np.repeat(np.arange(len(seen)), seen.shape[1])}
    fresh = jax.vmap(lambda k: net.init(rng.stream(k, "few classifier"), data["x"][:1]))(keys)
    rate = optax.cosine_decay_schedule(options.classifier_lr, options.steps)
    step = make_step(finetune(net), options.optimizer(rate))

    def batch(data: Any, key: Key) -> Any:
        rows = drawn(data, key, options.batch)
        return {**rows, "x": digits_data.ink(rng.stream(key, "ink"), rows["x"])}

    states, metrics = train_seeds(step, fresh, keys, tiled(data, len(keys)), batch, options.steps)
    learned = variables(states)
    return begin._replace(params={**begin.params, "backbone": learned.params["backbone"]}), metrics


def _tasks(options: Few, pool: Any, key: Key, tasks: int, shot: int) -> Any:
    return jtl_data.sample(
        jax.random.split(key, tasks), pool, way=options.way, shot=shot, query=QUERY, augment=digits_data.ink
    )


def _test(
    options: Few, inner: Objective, adapt: Adapt, start: Variables, pool: Any, shot: int, keys: Keys
) -> np.ndarray:
    """Mean query accuracy over the test tasks of each seed, [seeds]."""

    def seed(start: Variables, key: Key) -> Any:
        tasks = _tasks(options, pool, rng.stream(key, "test tasks"), options.test_tasks, shot)

        def one(task: Any) -> Any:
            params, stats = adapt(start.params, start.stats, task["support"], key)
            return accumulate.values(inner(params, stats, task["query"], key, 0)[1].metrics)["accuracy"]

        return jax.vmap(one)(tasks).mean()

    return np.asarray(jax.jit(jax.vmap(seed))(start, keys))

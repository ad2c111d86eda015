"""Stage (b): labelled digits as they are, unlabelled digits under a shift; DANN against the source alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jtl import heads, rng
from jtl.data import augment
from jtl.methods.adapt.adapt import adapt
from jtl.methods.adapt.dann import dann, weight_schedule
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.model import Model
from jtl.networks import network
from jtl.objective import Objective
from jtl.recipes.parts.base import positive
from jtl.recipes.parts.comparison import Comparison
from jtl.recipes.parts.seeds import Keys, drawn, one, tiled, train_seeds
from jtl.train.state import variables
from jtl.train.step import make_step
from jtl.typing import Key


@dataclass(frozen=True)
class Shift:
    """Numbers of stage (b).

    Args:
      degrees: by how much the target's digits are turned.
      steps: of both runs; the last step's network is judged.
      batch: images of each domain in a step.
      learning_rate: of both runs.
      weight: the largest λ of the reversed gradient.
      optimizer: from a rate to an optax optimizer.
    """

    degrees: float = 25.0
    steps: int = 400
    batch: int = 64
    learning_rate: float = 3e-3
    weight: float = 0.5
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam

    def __post_init__(self) -> None:
        positive(steps=self.steps, batch=self.batch, learning_rate=self.learning_rate)


class Seen(NamedTuple):
    """The first seed's features of test images, upright and turned, and their labels: way -> [images, width]."""

    upright: dict[str, np.ndarray]
    turned: dict[str, np.ndarray]
    y: np.ndarray


def run(body: Model, options: Shift, x: np.ndarray, y: np.ndarray, keys: Keys) -> tuple[Comparison, Seen]:
    """Source: the first half of the writers, labelled. Target: the next quarter turned, without labels.

    Both ways see the same batches of the source and take the same steps; DANN sees the target too. The last quarter,
    turned, is the test. No target label is used, not even to choose a step.
    """
    half, last = len(x) // 2, 3 * len(x) // 4
    target = np.asarray(augment.rotate_by(x, np.full(len(x), options.degrees, np.float32)))
    data = tiled({"source": {"x": x[:half], "y": y[:half]}, "target": {"x": target[half:last]}}, len(keys))
    net, ramp = network(backbone=body, head=heads.linear(10)), weight_schedule(options.steps)
    alone = finetune(net)
    ways = {
        # The baseline sees no row of the target, not even in BatchNorm.
        "source only": Objective(lambda params, stats, batch, key, n: alone(params, stats, batch["source"], key, n)),
        "DANN": adapt(net, alignments=[dann(heads.mlp(1, (64,)), lambda step: options.weight * ramp(step))]),
    }
    rows = {"x": x[:1], "y": y[:1]}
    start = jax.vmap(lambda k: ways["DANN"].init(rng.stream(k, "shift"), {"source": rows, "target": rows}))
    begin = start(keys)

    def batch(data: Any, key: Key) -> dict[str, Any]:
        return {name: drawn(part, rng.stream(key, name), options.batch) for name, part in data.items()}

    predict = jax.jit(jax.vmap(lambda v, x: predictor(net)(v, x).argmax(-1), in_axes=(0, None)))
    features = jax.jit(lambda v, x: net.apply(v, x, train=False)[0].features["pooled"])
    accuracy, curves, seen = {}, {}, Seen({}, {}, y[last:])
    for name, objective in ways.items():
        step = make_step(objective, options.optimizer(options.learning_rate))
        states, metrics = train_seeds(step, begin, keys, data, batch, options.steps)
        accuracy[name] = (np.asarray(predict(variables(states), target[last:])) == y[last:]).mean(1)
        curves[name] = metrics.get("source", metrics["loss"])
        first = one(variables(states))
        seen.upright[name], seen.turned[name] = (np.asarray(features(first, v[last:])) for v in (x, target))
    title = f"(b) upright digits to digits turned by {options.degrees:g}°, no target labels"
    return Comparison(title, {"source only": ("DANN",)}, accuracy, curves), seen

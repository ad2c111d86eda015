"""Stage (b): labelled digits as they are, unlabelled digits under a shift; DANN or MCC against the source alone."""

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
from jtl.methods.adapt.mcc import mcc
from jtl.methods.finetune.finetune import finetune, predictor
from jtl.model import Model
from jtl.networks import network
from jtl.objective import Objective
from jtl.recipes.parts.base import positive
from jtl.recipes.parts.comparison import Comparison
from jtl.recipes.parts.seeds import Keys, drawn, tiled, train_seeds
from jtl.selection.validators.clustering import class_clustering
from jtl.train.state import variables
from jtl.train.step import make_step
from jtl.typing import Key


@dataclass(frozen=True)
class Shift:
    """Settings of stage (b).

    Args:
      degrees: the angle by which the target's digits are turned.
      steps: the number of steps of each run; the last step's network is judged.
      batch: the number of images of each domain in a step.
      learning_rate: the learning rate of all runs.
      weight: the largest λ of DANN's reversed gradient; MCC's is 1, as in its paper.
      optimizer: a function from a rate to an optax optimizer.
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
    """The first seed's features of test images, upright and turned, way -> [images, width], and their labels."""

    upright: dict[str, np.ndarray]
    turned: dict[str, np.ndarray]
    y: np.ndarray


def run(body: Model, options: Shift, x: np.ndarray, y: np.ndarray, keys: Keys) -> tuple[Comparison, Seen]:
    """Source: the first half of the writers, labelled. Target: the next quarter turned, without labels.

    All ways see the same batches of the source and take the same number of steps; DANN and MCC see the target too. Of
    these two, the one with the higher mean class clustering on the target's training rows is shown; this score was
    chosen on other data. The last quarter, turned, is the test. No target label is used, not even to choose a step or a
    way.
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
        "MCC": adapt(net, alignments=[mcc()]),
    }
    rows = {"x": x[:1], "y": y[:1]}
    both = {"source": rows, "target": rows}
    begin = {
        n: jax.vmap(lambda k, w=w: w.init(rng.stream(k, "shift"), both))(keys)
        for n, w in ways.items()
        if n != "source only"
    }
    begin["source only"] = begin["MCC"]

    def batch(data: Any, key: Key) -> dict[str, Any]:
        return {name: drawn(part, rng.stream(key, name), options.batch) for name, part in data.items()}

    predict = jax.jit(jax.vmap(predictor(net), in_axes=(0, None)))
    features = jax.jit(jax.vmap(lambda v, x: net.apply(v, x, train=False)[0].read, in_axes=(0, None)))
    accuracy, curves, scores, seen = {}, {}, {}, Seen({}, {}, y[last:])
    for name, objective in ways.items():
        step = make_step(objective, options.optimizer(options.learning_rate))
        states, metrics = train_seeds(step, begin[name], keys, data, batch, options.steps)
        accuracy[name] = (np.asarray(predict(variables(states), target[last:])).argmax(-1) == y[last:]).mean(1)
        unlabelled = (np.asarray(look(variables(states), target[half:last])) for look in (features, predict))
        scores[name] = float(np.mean([class_clustering(f, z) for f, z in zip(*unlabelled, strict=True)]))
        curves[name] = metrics.get("source", metrics["loss"])
        first = jax.tree.map(lambda a: a[:1], variables(states))
        seen.upright[name], seen.turned[name] = (np.asarray(features(first, v[last:]))[0] for v in (x, target))
    best = max(("DANN", "MCC"), key=lambda name: scores[name])
    print("class clustering: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()), flush=True)
    shown = ("source only", best)
    seen = Seen({n: seen.upright[n] for n in shown}, {n: seen.turned[n] for n in shown}, seen.y)
    title = f"(b) upright digits to digits turned by {options.degrees:g}°, no target labels"
    return Comparison(title, {"source only": (best,)}, {name: accuracy[name] for name in shown}, curves), seen
